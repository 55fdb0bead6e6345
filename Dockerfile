# The image holds one static binary and nothing else: CA certificates and time zones are compiled in.
# "docker build ." compiles it. "docker build --target prebuilt ." takes it from dist/, where "make
# build" puts it, and needs no other image. The order of the stages lets the builder without BuildKit
# do the latter, too: it builds every stage up to the target.
FROM scratch AS base
LABEL org.opencontainers.image.title="kubelogexporter" \
      org.opencontainers.image.description="Archives the final logs of Kubernetes containers" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["/kubelogexporter"]
CMD ["run"]

FROM base AS prebuilt
COPY dist/kubelogexporter /kubelogexporter

FROM golang:1.26 AS compiled
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /kubelogexporter ./cmd/kubelogexporter

FROM base
COPY --from=compiled /kubelogexporter /kubelogexporter
