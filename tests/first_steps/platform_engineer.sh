# A platform engineer: what runs, how it is watched, changed and stopped. From the root of the checkout, with Brim's
# command on the PATH.
set -ev

# what would be served; this uses no device
brim check configs/demo.toml | head -n 2

# a file for one model, two HTTP processes
cat > brim.toml <<'END'
[server]
workers = 2

[[models]]
name = "digits"
family = "digits"
path = "examples/digits/digits.safetensors"
rows = [1, 4]
END
brim serve brim.toml > server.log 2>&1 &

# liveness does not wait for the models; readiness does
curl -sf -w '\n' --retry 120 --retry-delay 1 --retry-connrefused http://127.0.0.1:8000/healthz
curl -sf -w '\n' --retry 120 --retry-delay 1 http://127.0.0.1:8000/readyz

# numbers for Prometheus, and the configuration in Triton's format
curl -s http://127.0.0.1:8000/metrics | grep -E '^brim_(model_ready|ready)'
curl -s http://127.0.0.1:8000/v2/models/digits/config | head -c 60; echo

# a mistake in the file changes nothing on SIGHUP
sed -i.before 's/workers/workerz/' brim.toml
kill -HUP %1
until grep 'the configuration before it stays' server.log; do sleep 0.1; done
curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8000/readyz

# SIGTERM answers what was accepted, and ends with 0
kill %1
wait %1
echo "exit status $?"
cat server.log
