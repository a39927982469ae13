#!/bin/sh
set -e
install -D -m 0644 page.txt /srv/production/page.txt
