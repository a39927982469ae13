#!/bin/sh
# Installs the agent: install.sh [--from FILE|URL] [--sha256 SUM] [--to DIR] [--dry-run]
#
# Looks first whether this machine can run it, says each thing that it does, and replaces an older
# agent in one step: an action that runs continues under the old one. Schedules nothing and configures
# nothing; "agent init" does that afterwards, or from here: see the end.
set -eu
umask 022

from=
sum=
to=/usr/local/bin
dry=

fail() {
    echo "install.sh: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

unfetched() {
    fail "$from cannot be fetched" "see whether the address is right and reachable, or fetch it by hand: --from FILE"
}

usage() {
    echo "usage: install.sh [--from FILE|URL] [--sha256 SUM] [--to DIR] [--dry-run]" >&2
    exit 2
}

# run COMMAND…: says what it does, and does it unless this is a rehearsal.
run() {
    if [ "$dry" ]; then
        echo "would run: $*"
    else
        echo "$*"
        "$@"
    fi
}

# repeated COMMAND…: the same, again for a minute while there is no network or server; 3, 8 and 22 are the codes
# for a wrong address and for a server that refuses.
repeated() {
    for wait in 1 2 4 8 15 30 0; do
        code=0
        run "$@" || code=$?
        case $code in
        0) return 0 ;;
        3 | 8 | 22) return 1 ;;
        esac
        [ "$wait" = 0 ] || sleep "$wait"
    done
    return 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --from | --sha256 | --to) [ $# -gt 1 ] || usage ;;
    esac
    case $1 in
    --from) from=$2 && shift 2 ;;
    --sha256) sum=$2 && shift 2 ;;
    --to) to=${2%/} && shift 2 ;;
    --dry-run) dry=1 && shift ;;
    *) usage ;;
    esac
done

# The agent next to this script, or the one that was built here. A script that comes through a pipe lies
# nowhere, and what happens to lie in the directory of the user who runs it does not count.
if [ -z "$from" ] && [ -f "$0" ] && [ "$(basename "$0")" = install.sh ]; then
    here=$(cd "$(dirname "$0")" && pwd)
    for place in "$here/agent" "$here/../target/release/agent"; do
        [ ! -f "$place" ] || from=$place
    done
fi
[ "$from" ] || fail "there is no agent next to install.sh" "name one: install.sh --from FILE|URL"

# What it needs.
[ "$(uname -s)" = Linux ] || fail "this is $(uname -s); the agent is for Linux"
kernel=$(uname -r)
major=${kernel%%.*}
rest=${kernel#*.}
minor=${rest%%[!0-9]*}
if [ "$major" -lt 5 ] || { [ "$major" -eq 5 ] && [ "$minor" -lt 6 ]; }; then
    fail "Linux $kernel is too old: 5.6 or newer is needed"
fi
[ "$(date +%Y)" -ge 2026 ] || fail "the clock says $(date)" "set it: certificates are not valid yet"
[ -d "$to" ] || [ "$dry" ] || fail "there is no directory $to" "make it, or name another: --to DIR"
[ -w "$to" ] || [ "$dry" ] || fail "$to may not be written by $(id -un)" "sudo sh install.sh, or --to ~/bin"

# What it is good to have.
command -v bash >/dev/null || echo "note: without bash, scripts need a #! line of their own"
command -v ssh >/dev/null || echo "note: without ssh, addresses such as git@host:ops.git do not work"
command -v cron >/dev/null || command -v crond >/dev/null || [ -x /usr/sbin/cron ] ||
    [ -x /usr/sbin/crond ] || [ -d /run/systemd/system ] ||
    echo "note: there is neither cron nor systemd, so nothing would make it tick"
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] ||
    echo "note: without ca-certificates, https needs a ca_file"

new=$to/.agent.$$.new
trap 'rm -f "$new"' EXIT
case $from in
http://* | https://*)
    if [ "${from%%:*}" = http ] && [ -z "$sum" ]; then
        fail "$from may be changed on the way" "give --sha256, or use https"
    fi
    if command -v curl >/dev/null; then
        repeated curl -fsSL -o "$new" "$from" || unfetched
    elif command -v wget >/dev/null; then
        repeated wget -q -O "$new" "$from" || unfetched
    else
        fail "neither curl nor wget is there to fetch $from" "fetch it by hand: --from FILE"
    fi
    ;;
*)
    [ -f "$from" ] || fail "there is no file $from"
    run cp "$from" "$new"
    ;;
esac
if [ "$sum" ]; then
    run sh -c "echo '$sum  $new' | sha256sum --quiet -c -" ||
        fail "what came from $from is not what was meant: its sha256 is not $sum"
else
    echo "note: no --sha256 was given, so its content is taken on trust"
fi
run chmod 755 "$new"
[ "$dry" ] || "$new" --version >/dev/null ||
    fail "this machine cannot run it ($(uname -m))" "build it here: cargo build --release"
run mv -f "$new" "$to/agent"
run ln -sf agent "$to/pmpy"
[ "$dry" ] || "$to/agent" --version
echo "next: agent init URL --part PART"

# To make the machine live at once, as root: fill this in, and take the # away. What is put before an END is
# taken as it is: no character in it has to be quoted.
#set -- https://git.example.org/ops.git --part web --stack shop
#mkdir -p /etc/pmpy
# For https with a token:
#(umask 077 && cat > /etc/pmpy/ops.token) <<'END'
#the-token
#END
#cat > /etc/pmpy/agent.toml <<'END'
#[defaults]
#username = "x-token"
#password_file = "/etc/pmpy/ops.token"
#END
# For ssh: this machine's key has to be there, and the git server's (ssh-keyscan git.example.org).
#echo 'git.example.org ssh-ed25519 AAAA…' > /etc/pmpy/known_hosts
#set -- "$@" --key /etc/pmpy/ops.key --known-hosts /etc/pmpy/known_hosts
# To be woken by a message, with user:password of the brokers:
#(umask 077 && cat > /etc/pmpy/bus.login) <<'END'
#user:password
#END
#cat >> /etc/pmpy/agent.toml <<'END'
#[bus]
#brokers = ["stomps://amq1.example.org:61614"]
#login_file = "/etc/pmpy/bus.login"
#listen_topic = ["future.git.commits"]
#END
#set -- "$@" --schedule systemd
#exec "$to/agent" init "$@"
