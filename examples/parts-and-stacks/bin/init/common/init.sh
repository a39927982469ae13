# Once on each server, before the first work.
set -eu
mkdir -p /etc/shop
