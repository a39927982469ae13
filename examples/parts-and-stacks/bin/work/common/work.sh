# Every server.
set -eu
printf 'part %s, stack %s, revision %s\n' "$AGENT_PART" "$AGENT_STACK" "$AGENT_REVISION" > /etc/shop/server
