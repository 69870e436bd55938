# A new ML engineer: from the example to a model of their own. Run it from the root of the checkout, after `make serve`
# has installed Brim and `source .venv/bin/activate` has put it on the PATH.
set -ev

# what is there, and what comes first
brim --help

# the example is a folder to copy: a model, its weights, and the file that names them
cp -rL examples/iris mine
cd mine
brim check brim.toml | head -n 2

# a mistake is one line with the key and what is allowed
sed 's/rows/rwos/' brim.toml > wrong.toml
brim check wrong.toml || echo "exit status $?"
brim serve || echo "exit status $?"

# serve it; readiness comes when every bucket is verified
brim serve brim.toml > server.log 2>&1 &
curl -sf -w '\n' --retry 120 --retry-delay 1 --retry-connrefused http://127.0.0.1:8000/readyz

# the server has printed a request to try: it works as it is
bash -c "$(grep -o 'curl -s .*/infer .*' server.log) -w '\n'"

# a request that does not fit the model is told what would
curl -s -w '\n' http://127.0.0.1:8000/v2/models/iris/infer -d \
    '{"inputs":[{"name":"measurements","datatype":"FP32","shape":[1,3],"data":[5.1,3.5,1.4]}]}'

# the end
kill %1
wait %1
cat server.log
