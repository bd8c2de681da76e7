package sturdy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchEvent is an event of a chat completion, as OpenAI's servers send them.
const benchEvent = `data: {"id":"chatcmpl-BxTzvYp3mYgPqJvYk0dVtQ9w1R7aE","object":"chat.completion.chunk","created":1753800000,` +
	`"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_34a54ae93c","choices":[{"index":0,` +
	`"delta":{"content":" stream"},"logprobs":null,"finish_reason":null}]}` + "\n\n"

const benchSize = 100 << 20

// BenchmarkStream copies 100 MiB of events from a server on loopback, with and
// without the layers that look at them.
func BenchmarkStream(b *testing.B) {
	part := []byte(strings.Repeat(benchEvent, 32<<10/len(benchEvent)))
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 0; n < benchSize; n += len(part) {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	})
	for _, protocol := range []string{"HTTP-1", "HTTP-1,TLS", "HTTP-2"} {
		server := httptest.NewUnstartedServer(handler)
		server.EnableHTTP2 = protocol == "HTTP-2"
		if protocol == "HTTP-1" {
			server.Start()
		} else {
			server.StartTLS()
		}
		base := server.Client().Transport
		b.Run(protocol, func(b *testing.B) { benchmarkCopy(b, base, server.URL) })
		(&http.Client{Transport: base}).CloseIdleConnections()
		server.Close()
	}
}

func benchmarkCopy(b *testing.B, base http.RoundTripper, url string) {
	for _, row := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"base", base},
		{"Timeout,Idle", &Timeout{Base: base, Idle: time.Minute}},
		{"Stream", &Stream{Base: base}},
		{"Transport,Stream,Idle", &Transport{Base: &Stream{Base: base}, Timeout: Timeout{Idle: time.Minute}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(benchSize)
			for b.Loop() {
				resp, err := row.rt.RoundTrip(newRequest(b, http.MethodGet, url, http.NoBody))
				require.NoError(b, err)
				n, err := io.Copy(io.Discard, resp.Body)
				require.NoError(b, err)
				require.GreaterOrEqual(b, n, int64(benchSize))
				require.NoError(b, resp.Body.Close())
			}
		})
	}
}

// BenchmarkStreamInMemory is what the layers cost a reader by themselves: in
// parts of one event, as they come, and in large ones.
func BenchmarkStreamInMemory(b *testing.B) {
	text := strings.Repeat(benchEvent, 1<<10)
	for _, row := range []struct {
		name string
		rt   func(http.RoundTripper) http.RoundTripper
	}{
		{"base", func(base http.RoundTripper) http.RoundTripper { return base }},
		{"Timeout,Idle", func(base http.RoundTripper) http.RoundTripper { return &Timeout{Base: base, Idle: time.Minute} }},
		{"Stream", func(base http.RoundTripper) http.RoundTripper { return &Stream{Base: base} }},
	} {
		for name, size := range map[string]int{"event": len(benchEvent), "32KiB": 32 << 10} {
			b.Run(row.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(text)))
				body := strings.NewReader(text)
				resp, err := row.rt(rtFunc(streams(sseType, io.NopCloser(readerFunc(body.Read))))).RoundTrip(newRequest(b, http.MethodGet, "http://example.com", http.NoBody))
				require.NoError(b, err)
				p := make([]byte, size)
				for b.Loop() {
					body.Reset(text)
					for body.Len() > 0 {
						if _, err := resp.Body.Read(p); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
