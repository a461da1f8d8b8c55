#!/bin/sh
# Kindling beside raw vLLM on one GPU, with a Mistral-7B in 4-bit and in FP8.
#
#   deploy/bench_gpu.sh [FOLDER]      JSON goes to FOLDER (docs/measurements); tables to the terminal
#
# MISTRAL_GPTQ and MISTRAL_FP8 name checkpoints (hub ids or folders); where one is not set, an engine of the same shape
# with random weights is measured. Ends with 1 where a goal is missed, after both were measured.
set -eu

folder=${1:-docs/measurements}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"
missed=0
for format in gptq fp8; do
    case $format in
        gptq) model=${MISTRAL_GPTQ:-} ;;
        fp8) model=${MISTRAL_FP8:-} ;;
    esac
    log=$(mktemp)
    "$python" -m pipelines bench gpu --format "$format" ${model:+--model "$model"} >"$log" || missed=1
    # The last line is the JSON object; what stands before it is for people.
    sed '$d' "$log"
    # A run that failed keeps the figures of the one before it, and the other format is still measured.
    if tail -n 1 "$log" | grep -q '^{'; then
        tail -n 1 "$log" >"$folder/gpu-$format.json"
    else
        missed=1
    fi
    rm -f "$log"
done
exit $missed
