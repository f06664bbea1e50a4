# The detector without torch:
#   docker build -t irstd-ldm . && docker run --rm -v "$PWD:/work" irstd-ldm detect frame.png
FROM python:3.11-slim
RUN --mount=type=bind,target=/source,rw IRSTD_LDM_DISTRIBUTION=irstd-ldm-runtime pip install --no-cache-dir /source
WORKDIR /work
ENTRYPOINT ["irstd-ldm"]
