# bin/work/part/build/work.sh: what passes is announced where the servers listen.
set -e
sh ./test.sh
none=0000000000000000000000000000000000000000
echo "${AGENT_PREVIOUS:-$none} $AGENT_REVISION refs/heads/$AGENT_BRANCH" |
    /usr/local/bin/agent --config /etc/pmpy/tested.toml notify --name "$AGENT_REPO"
