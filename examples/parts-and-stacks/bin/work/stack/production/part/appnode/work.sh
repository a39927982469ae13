# The application nodes of production are larger.
set -eu
echo 'workers = 16' > /etc/shop/app.conf
