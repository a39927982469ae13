# Serves the pages of this revision.
set -eu
site=${SITE:-/var/www/site}
new=$site-$AGENT_REVISION

# A run that was cut off may have left a part of it.
rm -rf "$new"
mkdir -p "$(dirname "$site")"
cp -R site "$new"

old=$(readlink "$site" || true)
ln -sfn "$new" "$site.new"
mv -T "$site.new" "$site"
if [ "$old" ] && [ "$old" != "$new" ]; then
    rm -rf "$old"
fi
echo "$site is at $AGENT_REVISION"
