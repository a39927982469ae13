# bin/work/part/build/work.sh: what passes goes to the branch that the servers follow.
set -e
sh ./test.sh
git push --quiet origin "$AGENT_REVISION:refs/heads/tested"
