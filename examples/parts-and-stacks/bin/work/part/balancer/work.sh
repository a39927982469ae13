# The load balancer: who is balanced stands in the repository.
set -eu
install -m 644 etc/balancer.conf /etc/shop/balancer.conf
# systemctl reload haproxy
