#!/usr/bin/env bash
# tools/summarize_run.py on made-up runs.
set -euo pipefail
summarize=$PWD/tools/summarize_run.py
# shellcheck source=tests/tools/expect.sh
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
cd "$work"

# metric STEP LOSS: all losses alike.
metric() {
  printf '{"step":%d,"loss_itc":%s,"loss_itm":%s,"loss_mlm":%s,"loss":%s}\n' "$1" "$2" "$2" "$2" "$2"
}
# evaluation RECALL: of all scores; chance is 0.05.
evaluation() {
  local itc chance='{"at_1":0.005,"at_5":0.025,"at_10":0.05}'
  itc="{\"at_1\":$1,\"at_5\":$1,\"at_10\":$1}"
  printf '{"event":"evaluation","num_images":200,"num_texts":200'
  printf ',"%s":{"chance":%s,"itc":%s,"itm":%s}' image_to_text "$chance" "$itc" "$itc" \
    text_to_image "$chance" "$itc" "$itc"
  printf '}\n'
}

expect 64 "$summarize"
expect 1 "$summarize" nowhere
prints 'nowhere/metrics.jsonl holds no step'
prints 'nowhere/events.jsonl holds no evaluation'

mkdir run
{ metric 1 4 && metric 2 9 && metric 2 2 && metric 3 2 && metric 4 1 && printf '{"step":5,"lo'; } \
  >run/metrics.jsonl
{ printf '{"event":"started"}\n' && evaluation 0.01 && evaluation 0.5; } >run/events.jsonl
expect 0 "$summarize" run
prints 'steps 1 to 4'
prints '  loss_itc    3.0000 ->   1.5000'
prints '200 images and 200 captions'
prints '  text_to_image  itm       50.0   50.0   50.0'

evaluation 0.05 >run/events.jsonl
expect 1 "$summarize" run
prints 'recall is not above chance'

{ metric 1 1 && metric 2 3; } >run/metrics.jsonl
expect 1 "$summarize" run
prints 'a loss did not fall'

printf 'ok: %d checks\n' "$checks"
