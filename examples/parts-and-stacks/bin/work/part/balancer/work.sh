# The load balancer: the balanced hosts are listed in the repository.
set -eu
install -m 644 etc/balancer.conf /etc/shop/balancer.conf
# systemctl reload haproxy
