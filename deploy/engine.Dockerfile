# vLLM with the packages that decode audio, which the official image lacks.
# docker build -f deploy/engine.Dockerfile -t registry.example.com/vllm-openai-audio:v0.32.0 .
ARG VLLM=0.32.0
FROM docker.io/vllm/vllm-openai:v${VLLM}
ARG VLLM
# PyAV 17.1 to 18 crash the engine on eight channels of PCM in MOV and CAF.
RUN uv pip install --system --no-cache "vllm[audio]==${VLLM}" "av!=17.1.*,!=18.*"
