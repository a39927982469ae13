#!/bin/sh
# Installs the agent:
#
#   install.sh [--release DIR|URL] [--signers FILE] [--to DIR] [--dry-run]   of a release, for this machine
#   install.sh --from FILE|URL [--sha256 SUM] [--to DIR] [--dry-run]         one program
#   install.sh --uninstall [--to DIR] [--dry-run]
#
# Looks first whether this machine can run it, says each thing that it does, and replaces an older
# agent in one step: an action that runs continues under the old one. Schedules nothing and configures
# nothing; "agent init" does that afterwards, or from here: see the end.
#
# A release is a directory with SHA256SUMS, by default the one that this script lies in. With --signers FILE
# (lines of "NAME KEY", as for ssh-keygen) its signature has to be of one of them. Manual pages and completions
# go below DIR/../share. What --uninstall removes is listed in DIR/../share/push-me-pull-you/installed;
# repositories, configuration, state and logs stay.
set -eu
umask 022

from=
sum=
release=
signers=
to=/usr/local/bin
dry=
uninstall=

fail() {
    echo "install.sh: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

unfetched() {
    fail "$1 cannot be fetched" "see whether the address is right and reachable, or fetch it by hand: --from FILE"
}

usage() {
    echo "usage: install.sh [--from FILE|URL] [--sha256 SUM] [--release DIR|URL] [--signers FILE] [--to DIR] [--dry-run] [--uninstall]" >&2
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
        "$@" || code=$?
        case $code in
        0) return 0 ;;
        3 | 8 | 22) return 1 ;;
        esac
        [ "$wait" = 0 ] || sleep "$wait"
    done
    return 1
}

# get PLACE FILE: copies PLACE, a file or an address, to FILE.
get() {
    case $1 in
    http://* | https://*)
        if command -v curl >/dev/null; then
            repeated "${3-run}" curl -fsSL -o "$2" "$1" || unfetched "$1"
        elif command -v wget >/dev/null; then
            repeated "${3-run}" wget -q -O "$2" "$1" || unfetched "$1"
        else
            fail "neither curl nor wget is there to fetch $1" "fetch it by hand: --from FILE"
        fi
        ;;
    *)
        [ -f "${1#file://}" ] || fail "there is no file ${1#file://}"
        "${3-run}" cp "${1#file://}" "$2"
        ;;
    esac
}

# said COMMAND…: says what it does, and does it in a rehearsal as well, for what only reads.
said() {
    echo "$*"
    "$@"
}

while [ $# -gt 0 ]; do
    case $1 in
    --from | --sha256 | --to | --release | --signers) [ $# -gt 1 ] || usage ;;
    esac
    case $1 in
    --from) from=$2 && shift 2 ;;
    --sha256) sum=$2 && shift 2 ;;
    --release) release=${2%/} && shift 2 ;;
    --signers) signers=$2 && shift 2 ;;
    --to) to=${2%/} && shift 2 ;;
    --dry-run) dry=1 && shift ;;
    --uninstall) uninstall=1 && shift ;;
    *) usage ;;
    esac
done
[ -z "$from" ] || [ -z "$release$signers" ] || usage

share=$(dirname "$to")/share
list=$share/push-me-pull-you/installed

if [ "$uninstall" ]; then
    [ -e "$to/agent" ] || [ -e "$list" ] || fail "there is no agent in $to" "name the directory that it is in: --to DIR"
    # A schedule without its program would complain each minute.
    [ ! -x "$to/agent" ] || run "$to/agent" schedule none ||
        echo "note: the schedule may still be there: /etc/cron.d/pmpy, or pmpy.service" >&2
    if [ -f "$list" ]; then
        [ "$dry" ] || echo "removing the $(wc -l < "$list") files that $list lists"
        while read -r file; do
            case $file in
            */../*) fail "$list names $file, which this script has not installed" ;;
            "$share"/*) if [ "$dry" ]; then echo "would remove $file"; else rm -f "$file"; fi ;;
            *) fail "$list names $file, which this script has not installed" ;;
            esac
        done < "$list"
        run rm -f "$list"
        [ "$dry" ] || rmdir "$share/push-me-pull-you" 2>/dev/null || true
    fi
    run rm -f "$to/agent" "$to/pmpy"
    echo "what stays: repositories, /etc/pmpy, /var/lib/pmpy, /var/log/pmpy"
    exit 0
fi

# The release next to this script, the agent next to it, or the one that was built here. A script that comes through
# a pipe lies nowhere, and what happens to lie in the directory of the user who runs it does not count.
if [ -z "$from$release" ] && [ -f "$0" ] && [ "$(basename "$0")" = install.sh ]; then
    here=$(cd "$(dirname "$0")" && pwd)
    if [ -f "$here/SHA256SUMS" ]; then
        release=$here
    else
        for place in "$here/agent" "$here/../target/release/agent"; do
            [ ! -f "$place" ] || from=$place
        done
    fi
fi
[ "$from$release" ] || fail "there is no agent next to install.sh" "name one: install.sh --from FILE|URL"
[ -z "$signers" ] || [ "$release" ] || fail "only a release is signed" "install.sh --release DIR|URL --signers FILE"

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
work=
trap 'rm -rf "$new" ${work:+"$work"}' EXIT

# checked SUM FILE NAME: whether FILE is what was meant.
checked() {
    run sh -c "echo '$1  $2' | sha256sum --quiet -c -" || fail "what came from $3 is not what was meant: its sha256 is not $1"
}

archive=
if [ "$release" ]; then
    case $(uname -m) in
    x86_64 | amd64) target=x86_64-unknown-linux-musl ;;
    aarch64 | arm64) target=aarch64-unknown-linux-musl ;;
    armv7* | armv8l) target=armv7-unknown-linux-musleabihf ;;
    *) fail "a release has no program for $(uname -m)" "build it here: cargo build --release" ;;
    esac
    # Raspberry Pi OS has a 32-bit system on a 64-bit kernel.
    [ "$target" != aarch64-unknown-linux-musl ] || [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 64 ] ||
        target=armv7-unknown-linux-musleabihf
    case $release in
    http://*) [ "$signers" ] || fail "$release may be changed on the way" "give --signers, or use https" ;;
    esac
    work=$(mktemp -d)
    get "$release/SHA256SUMS" "$work/SHA256SUMS" said
    if [ "$signers" ]; then
        [ -f "$signers" ] || fail "there is no file $signers"
        command -v ssh-keygen >/dev/null || fail "there is no ssh-keygen to verify the signature" "install OpenSSH's client, 8.2 or newer"
        get "$release/SHA256SUMS.sig" "$work/SHA256SUMS.sig" said
        who=$(ssh-keygen -Y find-principals -s "$work/SHA256SUMS.sig" -f "$signers" 2>/dev/null | head -n 1)
        [ "$who" ] || fail "the signature of $release is of no one in $signers" \
            "compare with the key that the release was announced with"
        said ssh-keygen -Y verify -f "$signers" -I "$who" -n push-me-pull-you -s "$work/SHA256SUMS.sig" \
            < "$work/SHA256SUMS" || fail "the signature of $release does not match its SHA256SUMS"
    else
        echo "note: without --signers, the content of $release is taken on trust"
    fi
    # sum_of NAME: its checksum in the release; nothing where it is not part of it.
    sum_of() {
        sed -n "s/^\([0-9a-f]\{64\}\) [ *]$1\$/\1/p" "$work/SHA256SUMS"
    }
    from=$release/agent-$target
    sum=$(sum_of "agent-$target")
    [ "$sum" ] || fail "$release/SHA256SUMS lists no agent-$target"
    archive=$(sum_of agent-share.tar.gz)
fi

case $from in
http://*) [ "$sum" ] || fail "$from may be changed on the way" "give --sha256, or use https" ;;
esac
get "$from" "$new"
if [ "$sum" ]; then
    checked "$sum" "$new" "$from"
else
    echo "note: no --sha256 was given, so its content is taken on trust"
fi
run chmod 755 "$new"
[ "$dry" ] || "$new" --version >/dev/null ||
    fail "this machine cannot run it ($(uname -m))" "build it here: cargo build --release"

# Manual pages and completions are good to have: an agent without them works.
if [ "$archive" ]; then
    get "$release/agent-share.tar.gz" "$work/share.tar.gz" said
    echo "$archive  $work/share.tar.gz" | sha256sum --quiet -c - ||
        fail "what came from $release/agent-share.tar.gz is not what was meant: its sha256 is not $archive"
    mkdir "$work/out"
    tar -xzf "$work/share.tar.gz" -C "$work/out"
    (cd "$work/out/share" && find . -type f) | sort | sed 's,^\./,,' > "$work/files"
    if [ "$dry" ]; then
        sed "s,^,would write $share/," "$work/files"
    else
        echo "manual pages and completions: $(wc -l < "$work/files") files below $share"
        while read -r file; do
            mkdir -p "$(dirname "$share/$file")"
            cp "$work/out/share/$file" "$share/$file"
        done < "$work/files"
        mkdir -p "${list%/*}"
        sed "s,^,$share/," "$work/files" > "$list"
    fi
fi
run mv -f "$new" "$to/agent"
run ln -sf agent "$to/pmpy"
[ "$dry" ] || "$to/agent" --version
echo "next: agent init URL"

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
