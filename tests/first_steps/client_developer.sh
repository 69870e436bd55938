# A client developer: a server runs (`make serve`), and its URL is all there is.
set -ev

# what there is, from the URL alone
curl -s -w '\n' http://127.0.0.1:8000/v2
curl -s -w '\n' http://127.0.0.1:8000/v2/models
curl -s -w '\n' http://127.0.0.1:8000/v2/models/minilm
curl -s -o /dev/null -w '%{http_code} %{content_type}\n' http://127.0.0.1:8000/docs

# one text, and OpenAI's form of the same
curl -s -w '\n' http://127.0.0.1:8000/v2/models/minilm/infer -d \
    '{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["full to the brim"]}]}'
curl -s -w '\n' http://127.0.0.1:8000/v1/embeddings -H 'Content-Type: application/json' -d \
    '{"model":"minilm","input":"full to the brim"}'

# errors say which field is wrong, and what was expected
curl -s -w ' %{http_code}\n' http://127.0.0.1:8000/v2/models/minilm/infer -d '{"inputs":[]}'
curl -s -w ' %{http_code}\n' http://127.0.0.1:8000/v2/models/minilm/infer -d \
    '{"inputs":[{"name":"text","datatype":"INT64","shape":[1],"data":[1]}]}'
curl -s -w ' %{http_code}\n' http://127.0.0.1:8000/v2/models/mini/infer -d '{"inputs":[]}'
curl -s -w ' %{http_code}\n' http://127.0.0.1:8000/v1/embeddings -d '{"model":"digits","input":"7"}'
curl -s -w ' %{http_code}\n' http://127.0.0.1:8000/v2/model/minilm

# a deadline that no device can meet is refused at once
curl -s -w ' %{http_code}\n' http://127.0.0.1:8000/v2/models/minilm/infer -H 'X-Request-Timeout-Ms: 0.001' -d \
    '{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["full to the brim"]}]}'
