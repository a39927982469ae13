# The application nodes: two workers each, unless the stack says otherwise.
set -eu
echo 'workers = 2' > /etc/shop/app.conf
# systemctl reload shop
