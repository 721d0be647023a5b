#!/usr/bin/env bash
# Starts Debian's RabbitMQ (installing it if need be) on loopback, with its own files in the folder
# given, its AMQP port as the second argument. Prints the broker's process id last.
set -euo pipefail
base=$(realpath -m "$1") port=$2
if ! dpkg -s rabbitmq-server >/dev/null 2>&1; then
  # Installed, but not started by its package.
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  apt-get update >&2 && apt-get install -y --no-install-recommends rabbitmq-server >&2
  rm /usr/sbin/policy-rc.d
fi
mkdir -p "$base/mnesia" "$base/log"
echo "listeners.tcp.1 = 127.0.0.1:$port" >"$base/rabbitmq.conf"
echo '[].' >"$base/enabled_plugins"
export HOME=$base RABBITMQ_MNESIA_BASE=$base/mnesia RABBITMQ_LOG_BASE=$base/log
export RABBITMQ_NODENAME=compare@localhost RABBITMQ_DIST_PORT=25699 ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_CONFIG_FILE=$base/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=$base/enabled_plugins
export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_PID_FILE=$base/pid RABBITMQ_GENERIC_DATA_DIR=
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
ulimit -n "$(ulimit -Hn)"
rm -f "$base/pid"
nohup /usr/lib/rabbitmq/bin/rabbitmq-server >"$base/stdout.log" 2>&1 </dev/null &
for _ in $(seq 600); do
  sleep 0.1
  if [ -s "$base/pid" ] && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    cat "$base/pid"
    exit
  fi
done
echo "RabbitMQ did not start; see $base/stdout.log" >&2
exit 1
