package bench

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/sturdyhttp/sturdy"
)

// oauth2Client returns a client whose base is golang.org/x/oauth2's, with a token
// that is to be refreshed, and how often the token endpoint and the API were asked.
// The endpoint answers by status, the last for ever.
func oauth2Client(t *testing.T, statuses ...int) (client *http.Client, api string, tokens, calls *atomic.Int64) {
	tokens, calls = new(atomic.Int64), new(atomic.Int64)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		status := statuses[min(int(tokens.Add(1)), len(statuses))-1]
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if status == http.StatusOK {
			_, _ = io.WriteString(w, `{"access_token":"a","token_type":"Bearer","expires_in":3600}`)
		} else {
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		}
	})
	mux.HandleFunc("POST /api", func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		assert.Equal(t, "Bearer a", r.Header.Get("Authorization"))
		_, _ = io.Copy(w, r.Body)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	config := &oauth2.Config{ClientID: "me", Endpoint: oauth2.Endpoint{TokenURL: server.URL + "/token", AuthStyle: oauth2.AuthStyleInParams}}
	source := config.TokenSource(t.Context(), &oauth2.Token{RefreshToken: "r"})
	return &http.Client{Transport: &sturdy.Transport{Base: &oauth2.Transport{Source: source}}}, server.URL + "/api", tokens, calls
}

func TestARefreshThatIsRefusedIsAskedForOnceAndIsNoOutage(t *testing.T) {
	t.Parallel()
	client, api, tokens, calls := oauth2Client(t, http.StatusBadRequest)
	for n := range int64(20) {
		resp, err := client.Post(api, "text/plain", strings.NewReader("hello"))
		if err == nil {
			resp.Body.Close()
		}
		require.Error(t, err)
		var refused *oauth2.RetrieveError
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, "invalid_grant", refused.ErrorCode)
		assert.ErrorIs(t, sturdy.Check(resp, err), sturdy.ErrAuthentication)
		assert.Equal(t, sturdy.ErrAuthentication, sturdy.ClassOf(err))
		assert.Equal(t, n+1, tokens.Load())
	}
	assert.Zero(t, calls.Load())
}

func TestAPostComesHomeAfterARefreshThatMetA503(t *testing.T) {
	t.Parallel()
	client, api, tokens, calls := oauth2Client(t, http.StatusServiceUnavailable, http.StatusOK)
	resp, err := client.Post(api, "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(body))
	assert.EqualValues(t, 2, tokens.Load())
	assert.EqualValues(t, 1, calls.Load())
}
