#!/bin/sh
# User data for any cloud that runs a script at the first boot: paste it, with the first lines filled
# in. It may run again. HOME and most other variables may be unset.
set -eu
umask 022

repository=https://git.example.org/ops.git
part=web
stack=
agent=https://downloads.example.org/push-me-pull-you/agent
sha256=

# For ssh: the key of this machine, and the keys of the git server (ssh-keyscan git.example.org).
key() {
    cat <<'END'
END
}
known_hosts() {
    cat <<'END'
END
}

# For https: the token, and the user that it belongs to.
username=x-token
token=

# To be woken by a message, give the brokers; see docs/configuration.md.
bus() {
    cat <<'END'
#[bus]
#brokers = ["stomps://amq1.example.org:61614"]
#login_file = "/etc/pmpy/bus.login"
#listen_topic = ["future.git.commits"]
END
}

# Nothing below has to be changed.

# secret FILE: what only root may read.
secret() {
    (umask 077 && cat > "$1")
}

mkdir -p /etc/pmpy
set --
[ -z "$part" ] || set -- "$@" --part "$part"
[ -z "$stack" ] || set -- "$@" --stack "$stack"
if [ "$(key)" ]; then
    key | secret /etc/pmpy/ops.key
    set -- "$@" --key /etc/pmpy/ops.key
fi
if [ "$(known_hosts)" ]; then
    known_hosts > /etc/pmpy/known_hosts
    set -- "$@" --known-hosts /etc/pmpy/known_hosts
fi
{
    if [ "$token" ]; then
        printf '%s\n' "$token" | secret /etc/pmpy/ops.token
        printf '[defaults]\nusername = "%s"\npassword_file = "/etc/pmpy/ops.token"\n' "$username"
    fi
    bus
} > /etc/pmpy/agent.toml

# A machine may be up before its network is.
new=/usr/local/bin/.agent.new
for wait in 1 2 4 8 15 30 30 30 30 30 0; do
    if command -v curl >/dev/null; then
        curl -fsSL -o "$new" "$agent" && break
    else
        wget -q -O "$new" "$agent" && break
    fi
    [ "$wait" != 0 ] || exit 1
    sleep "$wait"
done
[ -z "$sha256" ] || echo "$sha256  $new" | sha256sum --quiet -c -
chmod 755 "$new"
mv -f "$new" /usr/local/bin/agent
ln -sf agent /usr/local/bin/pmpy

# What fails from here on (a key that is not known yet, say) the next ticks finish.
exec /usr/local/bin/agent init "$repository" "$@"
