package sturdy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

type okBase struct{}

func (okBase) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}

// BenchmarkSuccess is what a success costs through each layer, above a base
// that costs 1 allocation.
func BenchmarkSuccess(b *testing.B) {
	for _, row := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"base", okBase{}},
		{"Retry", &Retry{Base: okBase{}}},
		{"Retry,Budget off", &Retry{Base: okBase{}, Budget: &Budget{Size: -1}}},
		{"RateLimit", &RateLimit{Base: okBase{}}},
		{"RateLimit,Limit", &RateLimit{Base: okBase{}, Limit: 1e9, Burst: 1e9}},
		{"Breaker", &Breaker{Base: okBase{}}},
		{"Timeout,Header", &Timeout{Base: okBase{}, Header: time.Minute}},
		{"Transport", &Transport{Base: okBase{}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodGet, "https://api.example.com/v1/models", http.NoBody)
			req.Header.Set("Authorization", "Bearer x")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := row.rt.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSuccessOfMany is the same for 256 goroutines that share a layer.
func BenchmarkSuccessOfMany(b *testing.B) {
	for _, row := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"Retry", &Retry{Base: okBase{}}},
		{"Retry,Budget off", &Retry{Base: okBase{}, Budget: &Budget{Size: -1}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(256 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				req := httptest.NewRequest(http.MethodGet, "https://api.example.com/v1/models", http.NoBody)
				for pb.Next() {
					if _, err := row.rt.RoundTrip(req); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func TestRetryCostsASuccessTwoAllocations(t *testing.T) {
	count := func(rt http.RoundTripper) float64 {
		req := httptest.NewRequest(http.MethodGet, "https://api.example.com/v1/models", http.NoBody)
		return testing.AllocsPerRun(1000, func() {
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		})
	}
	if added := count(&Retry{Base: okBase{}}) - count(okBase{}); added > 2 {
		t.Errorf("Retry adds %v allocations", added)
	}
}

func TestASuccessCostsAtMostSixAllocations(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, "https://api.example.com/v1/models", http.NoBody)
	req.Header.Set("Authorization", "Bearer x")
	count := func(rt http.RoundTripper) float64 {
		return testing.AllocsPerRun(1000, func() {
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		})
	}
	if added := count(&Transport{Base: okBase{}}) - count(okBase{}); added > 6 {
		t.Errorf("the default stack adds %v allocations", added)
	}
}

// BenchmarkKey is what it costs to tell whose request it is.
func BenchmarkKey(b *testing.B) {
	sdk := []string{ // what an SDK sends
		"Accept", "application/json", "Content-Type", "application/json", "User-Agent", "OpenAI/Go 3.52.0", "X-Stainless-Lang", "go",
		"X-Stainless-Os", "Linux", "X-Stainless-Arch", "x64", "X-Stainless-Runtime", "go", "X-Stainless-Retry-Count", "0",
	}
	for _, row := range []struct {
		name, url string
		headers   []string
	}{
		{"none", "https://api.example.com/v1", nil},
		{"none,path", "https://api.example.com/api/v2/webhooks/0a1b2c3d-0a1b-4a1b-8a1b-0a1b2c3d4e5f/deliveries", nil},
		{"path", "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX", nil},
		{"bearer", "https://api.example.com/v1", []string{"Authorization", "Bearer sk-0123456789abcdef0123456789abcdef"}},
		{"bearer,SDK", "https://api.example.com/v1", append(sdk, "Authorization", "Bearer sk-0123456789abcdef0123456789abcdef")},
		{"JWT", "https://api.example.com/v1", []string{"Authorization", "Bearer " + jwtOf(`{"iss":"https://login.example.com/","sub":"u1","azp":"app","iat":1,"scope":"`+strings.Repeat("x", 600)+`"}`)}},
		{"query", "https://api.example.com/v1?q=weather&units=metric&api_key=0123456789abcdef", nil},
		{"cookie", "https://api.example.com/v1", []string{"Cookie", "theme=dark; JSESSIONID=0123456789abcdef; _ga=GA1.2.3"}},
	} {
		b.Run(row.name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodGet, row.url, http.NoBody)
			for i := 0; i < len(row.headers); i += 2 {
				req.Header.Set(row.headers[i], row.headers[i+1])
			}
			l := &RateLimit{}
			b.ReportAllocs()
			for b.Loop() {
				l.keyOf(req)
			}
		})
	}
}

func BenchmarkClassify(b *testing.B) {
	const body = `{"error":{"message":"Rate limit reached for gpt-4o-mini in organization org-1 on tokens per min (TPM): Limit 200000, ` +
		`Used 191584, Requested 45490. Please try again in 11.122s. Visit https://platform.openai.com/account/rate-limits to learn more.",` +
		`"type":"tokens","param":null,"code":"rate_limit_exceeded"}}`
	b.Run("success", func(b *testing.B) {
		resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
		b.ReportAllocs()
		for b.Loop() {
			if Classify(resp, nil) != nil {
				b.Fatal("not a success")
			}
		}
	})
	b.Run("429", func(b *testing.B) {
		req := httptest.NewRequest(http.MethodPost, "https://api.example.com/v1/chat/completions", http.NoBody)
		req.Header.Set("Authorization", "Bearer x")
		b.ReportAllocs()
		for b.Loop() {
			resp := &http.Response{
				StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Request: req,
				Body: io.NopCloser(strings.NewReader(body)),
			}
			if e := Classify(resp, nil); e.Class != ErrRateLimit {
				b.Fatal(e)
			}
		}
	})
}
