# The control node: the one from which people work.
set -eu
install -m 644 etc/motd /etc/motd
