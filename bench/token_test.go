package bench

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/sturdyhttp/sturdy"
)

// An API and its token endpoint, which answers with these statuses, the last for
// ever.
func withTokens(t *testing.T, statuses ...int) (client *http.Client, api string, asked, called *atomic.Int32) {
	asked, called = new(atomic.Int32), new(atomic.Int32)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := min(int(asked.Add(1)), len(statuses))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(statuses[n-1])
		if statuses[n-1] == http.StatusOK {
			_, _ = w.Write([]byte(`{"access_token":"t","token_type":"bearer"}`))
		} else {
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
		}
	}))
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) }))
	t.Cleanup(tokens.Close)
	t.Cleanup(server.Close)
	config := clientcredentials.Config{ClientID: "id", ClientSecret: "secret", TokenURL: tokens.URL, AuthStyle: oauth2.AuthStyleInParams}
	source := config.TokenSource(context.Background())
	return &http.Client{Transport: &sturdy.Transport{Base: &oauth2.Transport{Source: source}}}, server.URL, asked, called
}

func TestATokenThatIsRefusedIsAnAuthenticationErrorAndNoOutage(t *testing.T) {
	client, api, asked, called := withTokens(t, 401)
	for i := range 20 {
		resp, err := client.Post(api, "text/plain", strings.NewReader("x"))
		if class := sturdy.ClassOf(sturdy.Check(resp, err)); class != sturdy.ErrAuthentication {
			t.Fatalf("call %d: %v, %v", i, class, err)
		}
	}
	if asked.Load() != 20 || called.Load() != 0 {
		t.Errorf("asked for a token %d times, called %d times", asked.Load(), called.Load())
	}
}

func TestACallWhoseTokenMetAnOutageComesHome(t *testing.T) {
	client, api, asked, called := withTokens(t, 503, 500, 200)
	resp, err := client.Post(api, "text/plain", strings.NewReader("x"))
	if err := sturdy.Check(resp, err); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if asked.Load() != 3 || called.Load() != 1 {
		t.Errorf("asked for a token %d times, called %d times", asked.Load(), called.Load())
	}
}
