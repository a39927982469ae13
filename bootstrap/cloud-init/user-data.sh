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

# What is put before an END below is taken as it is: no character in it has to be quoted.

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
username() {
    cat <<'END'
x-token
END
}
token() {
    cat <<'END'
END
}

# To be woken by a message: take the # away below, and give user:password of the brokers. The agent then
# stays up as a service of systemd's; cron's line does not listen.
bus_login() {
    cat <<'END'
END
}
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
[ -z "$(token)" ] || token | secret /etc/pmpy/ops.token
if [ "$(bus_login)" ]; then
    bus_login | secret /etc/pmpy/bus.login
    set -- "$@" --schedule systemd
fi
# What a person has changed since stays.
if [ ! -e /etc/pmpy/agent.toml ]; then
    {
        if [ "$(token)" ]; then
            # For TOML, a backslash or a quotation mark takes a backslash before it.
            printf '[defaults]\nusername = "%s"\n' "$(username | sed 's/[\\"]/\\&/g')"
            printf 'password_file = "/etc/pmpy/ops.token"\n'
        fi
        bus
    } > /etc/pmpy/.agent.toml.new
    mv /etc/pmpy/.agent.toml.new /etc/pmpy/agent.toml
fi

# prepare: what the agent works with, where this is a Debian that lacks it.
prepare() {
    command -v cron >/dev/null && command -v curl >/dev/null && [ -d /etc/ssl/certs ] ||
        ! command -v apt-get >/dev/null || {
        apt-get -o DPkg::Lock::Timeout=600 update -q &&
            apt-get -o DPkg::Lock::Timeout=600 install -qy ca-certificates cron curl openssh-client
    }
}

new=/usr/local/bin/.agent.new
fetch() {
    if command -v curl >/dev/null; then
        curl -fsSL -o "$new" "$agent"
    else
        wget -q -O "$new" "$agent"
    fi
}

# Others may hold apt's locks at boot, and a machine may be up before its network is: nothing that fails is final
# before the last try.
for wait in 1 2 4 8 15 30 30 30 30 30 0; do
    if prepare && fetch; then break; fi
    if [ "$wait" = 0 ]; then
        echo "user-data: $agent cannot be fetched, or what it needs cannot be installed: this machine is not live" >&2
        echo "hint: see whether it has a network and a name server, and run this again" >&2
        exit 1
    fi
    sleep "$wait"
done
if [ "$sha256" ]; then
    echo "$sha256  $new" | sha256sum --quiet -c - || {
        echo "user-data: what came from $agent is not what was meant: its sha256 is not $sha256" >&2
        exit 1
    }
fi
chmod 755 "$new"
mv -f "$new" /usr/local/bin/agent
ln -sf agent /usr/local/bin/pmpy

# What fails from here on (a key that is not known yet, say) the next ticks finish.
exec /usr/local/bin/agent init "$repository" "$@"
