# After an install nothing runs yet: "agent init" makes the machine live. After an upgrade a service
# that runs continues with the new agent; an action that runs continues under the old one.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    systemctl try-restart pmpy.service || true
fi
