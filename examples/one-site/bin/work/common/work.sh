# Serves the pages of this revision.
set -eu
site=${SITE:-/var/www/site}
old=$(readlink "$site" || true)
new=$site-$AGENT_REVISION
# What is served now stays whole until the new pages are.
[ "$old" != "$new" ] || new=$new-again

# A run that was cut off may have left a part of it.
rm -rf "$new"
mkdir -p "$(dirname "$site")"
cp -R site "$new"

ln -sfn "$new" "$site.new"
mv -T "$site.new" "$site"
[ -z "$old" ] || rm -rf "$old"
echo "$site is at $AGENT_REVISION"
