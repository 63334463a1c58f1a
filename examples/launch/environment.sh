# shellcheck shell=bash
# Settings that every launch needs; sourced by the scripts beside it. NCCL chooses its own: nothing of it is set here.

# One hardware queue: the all-gather of tensor parallelism is put into it before the matrix product that it must overlap
# with, and more queues would let the product go first.
export CUDA_DEVICE_MAX_CONNECTIONS=1

# Documents differ in length from batch to batch; segments that grow keep the allocator from fragmenting.
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"

# Eight processes of a node share its cores; without this each starts a thread per core.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

# torchrun hands these to the run, which then saves and leaves; and waits this long for it before it kills.
export TORCHELASTIC_SIGNALS_TO_HANDLE="${TORCHELASTIC_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-900}"
