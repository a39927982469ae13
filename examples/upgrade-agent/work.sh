#!/bin/sh
# Brings the agent to the version in the file "release", whose checksums are in SHA256SUMS, and back to the old
# one when the new one does not tick.
set -eu
umask 022
version=$(sed -n 's/^version=//p' release)
from=$(sed -n 's/^from=//p' release)
agent=${AGENT_PROGRAM:-/usr/local/bin/agent}
new=${agent%/*}/.agent.new
old=${agent%/*}/.agent.old

fail() {
    echo "upgrade-agent: $1" >&2
    exit 1
}

# version_of PROGRAM: "agent 1.2.3 (…)" without the rest.
version_of() {
    "$1" --version | cut -d ' ' -f 2
}

# A machine that died after the rename and before the check has both: the old one is what is known to work.
[ ! -e "$old" ] || mv -f "$old" "$agent"
before=$(version_of "$agent")
[ "$before" != "$version" ] || { echo "the agent is $version"; exit 0; }

case $(uname -m) in
x86_64) target=x86_64-unknown-linux-musl ;;
aarch64) target=aarch64-unknown-linux-musl ;;
armv7* | armv8l) target=armv7-unknown-linux-musleabihf ;;
*) fail "no agent is built for $(uname -m)" ;;
esac
sum=$(sed -n "s/ [ *]agent-$target\$//p" SHA256SUMS)
[ "$sum" ] || fail "SHA256SUMS lists no agent-$target"

trap 'rm -rf "$new" "$new.old" ${probe:+"$probe"}' EXIT
case $from in
https://*) curl -fsSL -o "$new" "$from/agent-$target" || wget -q -O "$new" "$from/agent-$target" ;;
*) cp "$from/agent-$target" "$new" ;;
esac
echo "$sum  $new" | sha256sum --quiet -c - || fail "$from/agent-$target is not what SHA256SUMS says"
chmod 755 "$new"
[ "$(version_of "$new")" = "$version" ] || fail "$from is not version $version on this machine"

# ticks: whether the agent understands the configuration of this machine, and ticks: in a root of its own, with
# this repository and without its scripts. What is wrong with other repositories is not its fault.
ticks() {
    code=0
    timeout 120 "$agent" check --offline > /dev/null || code=$?
    [ "$code" -le 1 ] || { echo "agent check ended with $code" >&2; return 1; }
    probe=$(mktemp -d)
    mkdir "$probe/.pmpy"
    printf '[repo.probe]\nurl = "%s"\nmode = "in-place"\n' "$PWD" > "$probe/.pmpy/agent.toml"
    env -i PATH="$PATH" HOME="$HOME" timeout 120 "$agent" --root "$probe" tick probe > /dev/null
}

# The service runs the program that it was started with until it is restarted; this script continues.
restart() {
    ! systemctl --quiet is-active pmpy.service 2> /dev/null || systemctl restart pmpy.service
}

cp -p "$agent" "$new.old"
mv -f "$new.old" "$old"
mv -f "$new" "$agent"
if ticks && restart; then
    rm -f "$old"
    echo "the agent is $version; it was $before"
else
    mv -f "$old" "$agent"
    restart || true
    fail "the agent $version does not tick; $before is back"
fi
