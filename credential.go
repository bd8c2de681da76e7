package sturdy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"hash/maphash"
	"math/bits"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// What a server tells callers apart by is all over a request: in headers, in the
// query, in cookies, and often in several of them. All that are found count together,
// whatever their order, since a server may count by any of them: a caller who is
// taken for two learns a limit twice, but two who are taken for one hold each other up.
//
// Not found is what is not in the request: a client certificate, and what a form or
// a JSON body holds. Proxy-Authorization is not the API's but the proxy's, which is the
// same for all. A RateLimit.Key tells apart whatever else there is.

// A credentialSource is where a request says who sends it.
type credentialSource struct {
	name string // in lower case
	role role
}

// A role is how much a source says.
type role uint8

const (
	isCredential    role = iota // proves who sends the request
	isAccount                   // names on whose behalf: limits are counted by it, beside the credential
	isAuthorization             // a credential that has a scheme
	isAccessKey                 // a credential's name, followed by a slash and what changes each day
	isCookies                   // is searched for those that hold a session
	isAmbiguous                 // a credential, or something else by the same name: counts only where no other credential is
)

// headerSources are the headers. A name that is not here, and that an API uses, is
// worth a row, with the page that documents it.
var headerSources = indexed(1, []credentialSource{
	{"authorization", isAuthorization},                  // RFC 9110, section 11.6.2
	{"cookie", isCookies},                               // RFC 6265, section 5.4
	{"api-key", isCredential},                           // Azure OpenAI: learn.microsoft.com/azure/ai-services/openai/reference; New Relic, Pinecone
	{"x-api-key", isCredential},                         // Anthropic: docs.anthropic.com/en/api/overview; AWS API Gateway: docs.aws.amazon.com/apigateway, "API key source"
	{"apikey", isCredential},                            // Supabase: supabase.com/docs/guides/api; Kong: docs.konghq.com/hub/kong-inc/key-auth
	{"x-api-token", isCredential},                       // Pipedrive: developers.pipedrive.com/docs/api/v1
	{"x-access-token", isCredential},                    // Tableau Metadata, JFrog Xray; a common name in tutorials of JWTs
	{"x-auth-token", isCredential},                      // OpenStack Keystone: docs.openstack.org/api-ref/identity/v3; BigCommerce
	{"x-auth-key", isCredential},                        // Cloudflare's global key: developers.cloudflare.com/fundamentals/api
	{"x-auth-email", isAccount},                         // Cloudflare, beside X-Auth-Key
	{"x-auth-client", isAccount},                        // BigCommerce, beside X-Auth-Token: developer.bigcommerce.com/docs/start/authentication
	{"x-goog-api-key", isCredential},                    // cloud.google.com/docs/authentication/api-keys-use
	{"x-goog-user-project", isAccount},                  // the project whose quota is used: cloud.google.com/apis/docs/system-parameters
	{"x-goog-iap-jwt-assertion", isCredential},          // cloud.google.com/iap/docs/signed-headers-howto
	{"x-serverless-authorization", isAuthorization},     // cloud.google.com/run/docs/authenticating/service-to-service
	{"developer-token", isCredential},                   // Google Ads: developers.google.com/google-ads/api/docs/concepts/call-structure
	{"login-customer-id", isAccount},                    // Google Ads, the same page
	{"ocp-apim-subscription-key", isCredential},         // Azure API Management: learn.microsoft.com/azure/api-management/api-management-subscriptions
	{"x-functions-key", isCredential},                   // learn.microsoft.com/azure/azure-functions/function-keys-how-to
	{"x-amz-access-token", isCredential},                // Amazon Selling Partner API: developer-docs.amazon.com/sp-api, "Connect to the SP-API"
	{"amazon-advertising-api-clientid", isAccount},      // Amazon Ads: advertising.amazon.com/API/docs, "API overview"
	{"amazon-advertising-api-scope", isAccount},         // Amazon Ads: the profile, the same page
	{"openai-organization", isAccount},                  // limits are by organization and project: platform.openai.com/docs/api-reference/authentication
	{"openai-project", isAccount},                       // the same page
	{"xi-api-key", isCredential},                        // ElevenLabs: elevenlabs.io/docs/api-reference/authentication
	{"x-rapidapi-key", isCredential},                    // docs.rapidapi.com/docs/keys
	{"x-mashape-key", isCredential},                     // RapidAPI by its old name
	{"private-token", isCredential},                     // GitLab: docs.gitlab.com/api/rest/authentication
	{"job-token", isCredential},                         // GitLab, the same page
	{"deploy-token", isCredential},                      // GitLab, the package registries
	{"circle-token", isCredential},                      // circleci.com/docs/api-developers-guide
	{"x-octopus-apikey", isCredential},                  // octopus.com/docs/octopus-rest-api
	{"x-nuget-apikey", isCredential},                    // learn.microsoft.com/nuget/api/package-publish-resource
	{"x-jfrog-art-api", isCredential},                   // JFrog Artifactory: jfrog.com/help, "Artifactory REST API"
	{"x-vault-token", isCredential},                     // developer.hashicorp.com/vault/api-docs
	{"x-vault-namespace", isAccount},                    // Vault's quotas are by namespace: developer.hashicorp.com/vault/docs/concepts/resource-quotas
	{"x-consul-token", isCredential},                    // developer.hashicorp.com/consul/api-docs/api-structure
	{"x-nomad-token", isCredential},                     // developer.hashicorp.com/nomad/api-docs
	{"dd-api-key", isCredential},                        // Datadog: docs.datadoghq.com/api/latest/authentication
	{"dd-application-key", isCredential},                // Datadog, beside DD-API-KEY
	{"x-insert-key", isCredential},                      // New Relic: docs.newrelic.com, "Event API"
	{"x-query-key", isCredential},                       // New Relic: docs.newrelic.com, "Insights query API"
	{"x-license-key", isCredential},                     // New Relic: docs.newrelic.com, "Log API"
	{"x-honeycomb-team", isCredential},                  // docs.honeycomb.io/api
	{"x-scope-orgid", isAccount},                        // the tenant, by which limits are: grafana.com/docs/mimir, "Authentication and authorization"; Loki, Tempo
	{"x-shopify-access-token", isCredential},            // shopify.dev/docs/api/admin-rest
	{"x-shopify-storefront-access-token", isCredential}, // shopify.dev/docs/api/storefront
	{"x-recharge-access-token", isCredential},           // developer.rechargepayments.com
	{"stripe-account", isAccount},                       // on whose behalf: docs.stripe.com/connect/authentication
	{"paypal-auth-assertion", isAccount},                // the same: developer.paypal.com/api/rest/requests; a JWT without signature
	{"xero-tenant-id", isAccount},                       // 60 a minute for each: developer.xero.com/documentation/guides/oauth2/limits
	{"harvest-account-id", isAccount},                   // help.getharvest.com/api-v2, "Authentication"
	{"x-tenant-id", isAccount},                          // no single owner; it is always on whose behalf
	{"x-org-id", isAccount},                             // the same
	{"x-okapi-tenant", isAccount},                       // FOLIO: github.com/folio-org/okapi
	{"x-okapi-token", isCredential},                     // FOLIO, beside it
	{"x-postmark-server-token", isCredential},           // postmarkapp.com/developer/api/overview
	{"x-postmark-account-token", isCredential},          // the same page
	{"x-figma-token", isCredential},                     // figma.com/developers/api
	{"x-trackertoken", isCredential},                    // Pivotal Tracker: pivotaltracker.com/help/api
	{"x-cisco-meraki-api-key", isCredential},            // developer.cisco.com/meraki/api-v1/authorization
	{"x-algolia-api-key", isCredential},                 // algolia.com/doc/rest-api/search
	{"x-algolia-application-id", isAccount},             // beside it
	{"x-typesense-api-key", isCredential},               // typesense.org/docs, "API keys"
	{"x-appwrite-key", isCredential},                    // appwrite.io/docs/apis/rest
	{"x-appwrite-jwt", isCredential},                    // the same page
	{"x-appwrite-session", isCredential},                // the same page
	{"x-appwrite-project", isAccount},                   // the same page
	{"x-parse-application-id", isAccount},               // docs.parseplatform.org/rest/guide
	{"x-parse-rest-api-key", isCredential},              // the same page
	{"x-parse-session-token", isCredential},             // the same page
	{"x-hasura-admin-secret", isCredential},             // hasura.io/docs, "Securing the GraphQL endpoint"
	{"x-subscription-token", isCredential},              // Brave Search: api-dashboard.search.brave.com/app/documentation
	{"x-riot-token", isCredential},                      // developer.riotgames.com
	{"x-plex-token", isCredential},                      // support.plex.tv, "Finding an authentication token"
	{"x-emby-token", isCredential},                      // dev.emby.media; Jellyfin
	{"trakt-api-key", isCredential},                     // trakt.docs.apiary.io
	{"client-id", isAccount},                            // Twitch, whose limits are by client and user: dev.twitch.tv/docs/api/guide
	{"x-ibm-client-id", isCredential},                   // IBM API Connect: ibm.com/docs/api-connect
	{"x-ibm-client-secret", isCredential},               // beside it
	{"x-cmc_pro_api_key", isCredential},                 // CoinMarketCap: coinmarketcap.com/api/documentation
	{"x-cg-pro-api-key", isCredential},                  // CoinGecko: docs.coingecko.com/reference/authentication
	{"x-cg-demo-api-key", isCredential},                 // the same page
	{"x-mbx-apikey", isCredential},                      // Binance: developers.binance.com/docs
	{"x-bapi-api-key", isCredential},                    // Bybit: bybit-exchange.github.io/docs
	{"cb-access-key", isCredential},                     // Coinbase: docs.cdp.coinbase.com/exchange/docs
	{"ok-access-key", isCredential},                     // OKX: okx.com/docs-v5
	{"kc-api-key", isCredential},                        // KuCoin: kucoin.com/docs
	{"x-authorization", isAuthorization},                // no single owner, as those down to x-app-key
	{"token", isCredential},                             // the same
	{"access-token", isCredential},                      // the same
	{"auth-token", isCredential},                        // the same
	{"x-token", isCredential},                           // the same
	{"x-user-token", isCredential},                      // the same
	{"music-user-token", isCredential},                  // Apple Music, beside the developer's: developer.apple.com/documentation/applemusicapi
	{"x-session-token", isCredential},                   // the same
	{"x-secret-key", isCredential},                      // the same
	{"x-access-key", isCredential},                      // the same
	{"x-app-key", isCredential},                         // the same
	{"x-amz-security-token", isAccount},                 // docs.aws.amazon.com/STS, beside a signature
	{"x-redmine-api-key", isCredential},                 // redmine.org/projects/redmine/wiki/Rest_api
	{"x-finnhub-token", isCredential},                   // finnhub.io/docs/api
	{"x-clickhouse-user", isAccount},                    // clickhouse.com/docs/interfaces/http
	{"x-clickhouse-key", isCredential},                  // the same page
	{"fastly-key", isCredential},                        // fastly.com/documentation/reference/api/auth-tokens
	{"x-gotify-key", isCredential},                      // gotify.net/docs/pushmsg
	{"x-rundeck-auth-token", isCredential},              // docs.rundeck.com/docs/api
	{"x-cassandra-token", isCredential},                 // docs.datastax.com, Stargate
	{"x-n8n-api-key", isCredential},                     // docs.n8n.io/api/authentication
	{"x-metabase-session", isCredential},                // metabase.com/docs/latest/api
	{"zotero-api-key", isCredential},                    // zotero.org/support/dev/web_api
	{"x-portkey-api-key", isCredential},                 // portkey.ai/docs/api-reference
	{"helicone-auth", isAuthorization},                  // docs.helicone.ai
	{"api_access_token", isCredential},                  // Chatwoot: developers.chatwoot.com
	{"x-sentry-auth", isCredential},                     // develop.sentry.dev/sdk/overview
	{"accesskey", isCredential},                         // bunny.net: docs.bunny.net/reference
	{"api-username", isAccount},                         // Discourse: docs.discourse.org
	{"cf-access-client-id", isCredential},               // developers.cloudflare.com/cloudflare-one/identity/service-tokens
	{"cf-access-token", isCredential},                   // Cloudflare Access, a JWT
	{"cf-access-jwt-assertion", isCredential},           // the same
})

// querySources are the parameters of a query. Names that as often say what is
// asked for, such as appid, code, id, session and username, are not here; those that
// say so now and then are ambiguous. What only signs the URL it is in, such as the sig
// of a shared access signature, is another for each URL, and says nothing of its own.
// Servers differ in how they part the words of a name, so that does not matter: api_key
// is apiKey and api-key as well.
var querySources = loosely(1001, []credentialSource{
	{"key", isAmbiguous},                    // developers.google.com/maps/faq, "API keys"; Trello
	{"token", isAmbiguous},                  // Trello: developer.atlassian.com/cloud/trello/guides/rest-api/authorization; Finnhub, Gitea
	{"auth", isAmbiguous},                   // Firebase: firebase.google.com/docs/database/rest/auth
	{"client_id", isAmbiguous},              // Unsplash: unsplash.com/documentation; Foursquare
	{"api_key", isCredential},               // api.data.gov/docs/developer-manual; apiKey: newsapi.org/docs/authentication; apikey: omdbapi.com; api-key: open-platform.theguardian.com/documentation
	{"x-api-key", isCredential},             // AWS API Gateway's authorizers; Anthropic by gateways
	{"access_token", isCredential},          // RFC 6750, section 2.3
	{"auth_token", isCredential},            // HipChat; a common name
	{"auth_key", isCredential},              // DeepL until 2025: developers.deepl.com/docs
	{"api_token", isCredential},             // Pipedrive; eodhd.com/financial-apis
	{"access_key", isCredential},            // apilayer: currencylayer.com/documentation
	{"private_token", isCredential},         // GitLab: docs.gitlab.com/api/rest/authentication
	{"job_token", isCredential},             // GitLab, the same page
	{"user_key", isCredential},              // 3scale: docs.redhat.com, "Authentication patterns"
	{"app_key", isCredential},               // Edamam: developer.edamam.com; api.tfl.gov.uk
	{"application_key", isCredential},       // Datadog, beside api_key
	{"secret_key", isCredential},            // no single owner, as those down to jwt
	{"session_token", isCredential},         // the same
	{"rapidapi-key", isCredential},          // the same
	{"personal_access_token", isCredential}, // the same
	{"jwt", isCredential},                   // the same
	{"$$app_token", isCredential},           // Socrata: dev.socrata.com/docs/app-tokens.html
	{"x-plex-token", isCredential},          // as its header
	{"subscription-key", isCredential},      // Azure API Management, as its header
	{"hapikey", isCredential},               // HubSpot until 2022
	{"quotauser", isAccount},                // quotaUser: cloud.google.com/apis/docs/system-parameters
	{"userproject", isAccount},              // userProject: cloud.google.com/storage/docs/requester-pays
	{"oauth_consumer_key", isCredential},    // RFC 5849, section 3.5.3
	{"oauth_token", isCredential},           // the same
	{"x-amz-credential", isAccessKey},       // docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
	{"x-goog-credential", isAccessKey},      // cloud.google.com/storage/docs/authentication/signatures
	{"x-oss-credential", isAccessKey},       // Alibaba Cloud: help.aliyun.com/document_detail/2807095.html
	{"awsaccesskeyid", isCredential},        // AWSAccessKeyId: docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html
	{"ossaccesskeyid", isCredential},        // OSSAccessKeyId, Alibaba Cloud's older signature
	{"googleaccessid", isCredential},        // GoogleAccessId: cloud.google.com/storage/docs/access-control/signed-urls-v2
	{"q-ak", isCredential},                  // Tencent Cloud: cloud.tencent.com/document/product/436/7778
	{"skoid", isCredential},                 // who signed: learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
	{"sktid", isAccount},                    // their tenant, the same page
})

// cookieSources are the cookies that hold a session for as long as it lasts. Those
// that are sealed anew with each answer, as Rails', Laravel's and Flask's are, would
// make a key of each request. None counts where there is another credential:
// a server may set one in passing, and the caller is the same before and after.
var cookieSources = indexed(2001, []credentialSource{
	{"jsessionid", isAmbiguous},                       // Jakarta Servlet 6, section 7.1.1
	{"phpsessid", isAmbiguous},                        // php.net/manual/en/session.configuration.php
	{"asp.net_sessionid", isAmbiguous},                // learn.microsoft.com, HttpSessionState
	{".aspnetcore.session", isAmbiguous},              // learn.microsoft.com/aspnet/core/fundamentals/app-state
	{".aspnetcore.cookies", isAmbiguous},              // learn.microsoft.com/aspnet/core/security/authentication/cookie
	{".aspnetcore.identity.application", isAmbiguous}, // the same
	{".aspxauth", isAmbiguous},                        // ASP.NET forms authentication
	{"connect.sid", isAmbiguous},                      // Express: github.com/expressjs/session
	{"sessionid", isAmbiguous},                        // docs.djangoproject.com/en/stable/ref/settings, SESSION_COOKIE_NAME; Instagram
	{"session_id", isAmbiguous},                       // Odoo: odoo.com/documentation
	{"sid", isAmbiguous},                              // Salesforce, ERPNext
	{"next-auth.session-token", isAmbiguous},          // next-auth.js.org/configuration/options
	{"authjs.session-token", isAmbiguous},             // the same by its new name
	{"access_token", isAmbiguous},                     // a JWT by its common names
	{"auth_token", isAmbiguous},                       // the same; X
	{"cf_authorization", isAmbiguous},                 // Cloudflare Access
	{"_oauth2_proxy", isAmbiguous},                    // oauth2-proxy.github.io/oauth2-proxy/configuration
	{"awselbauthsessioncookie-0", isAmbiguous},        // docs.aws.amazon.com/elasticloadbalancing, "Authenticate users"
	{"cloud.session.token", isAmbiguous},              // Atlassian
	{"grafana_session", isAmbiguous},                  // grafana.com/docs/grafana, login_cookie_name
	{"moodlesession", isAmbiguous},                    // docs.moodle.org
	{"pveauthcookie", isAmbiguous},                    // pve.proxmox.com/wiki/Proxmox_VE_API
	{"li_at", isAmbiguous},                            // LinkedIn
})

// A credentialIndex finds a source by its name, in any case: HTTP's headers have
// none, and who sets one in the map itself may write it as its documentation does.
// Each request asks for every name in it, and most are no source's: so it takes one
// load to know that, by the name's length and last letter.
type credentialIndex struct {
	first   int // the number of the first source
	sources []credentialSource
	loose   bool           // the words of a name may be parted in any way
	names   []string       // as they are looked for: without what parts their words, if loose
	usual   []string       // the same, as a Header has them
	heads   [1 << 11]uint8 // of the chain of sources that have these; 1 is the first source
	next    []uint8        // in the chain
}

func indexed(first int, sources []credentialSource) *credentialIndex {
	x := &credentialIndex{first: first, sources: sources}
	for _, s := range sources {
		x.names = append(x.names, s.name)
	}
	return x.linked()
}

// loosely is indexed for names whose words may be parted in any way.
func loosely(first int, sources []credentialSource) *credentialIndex {
	x := &credentialIndex{first: first, sources: sources, loose: true}
	for _, s := range sources {
		x.names = append(x.names, strings.NewReplacer("_", "", "-", "").Replace(s.name))
	}
	return x.linked()
}

func (x *credentialIndex) linked() *credentialIndex {
	x.next = make([]uint8, len(x.names)+1)
	for i, name := range x.names {
		x.usual = append(x.usual, textproto.CanonicalMIMEHeaderKey(name))
		head := x.head(name)
		x.next[i+1], *head = *head, uint8(i+1)
	}
	return x
}

func (x *credentialIndex) head(name string) *uint8 {
	return &x.heads[(len(name)<<5|int(name[len(name)-1]&0x1f))&(len(x.heads)-1)]
}

// find returns the role of a name and its number, or 0 if it is no source's.
func (x *credentialIndex) find(name string) (role, int) {
	if x.loose && (strings.IndexByte(name, '_') >= 0 || strings.IndexByte(name, '-') >= 0) {
		return x.findParted(name)
	}
	i := x.place(name)
	if i < 0 || x.loose && x.sources[i].role == isAmbiguous && len(name) != len(x.sources[i].name) {
		return 0, 0
	}
	return x.sources[i].role, x.first + i
}

// findParted is find for a name whose words are parted. A source that is ambiguous
// counts only as it is documented: clientId more often says whom is asked for.
func (x *credentialIndex) findParted(name string) (role, int) {
	var plain [32]byte // longer than any name
	n := 0
	for i := range len(name) {
		if name[i] == '_' || name[i] == '-' {
			continue
		}
		if n == len(plain) {
			return 0, 0
		}
		plain[n] = name[i]
		n++
	}
	i := x.place(string(plain[:n]))
	if i < 0 || x.sources[i].role == isAmbiguous && !strings.EqualFold(name, x.sources[i].name) {
		return 0, 0
	}
	return x.sources[i].role, x.first + i
}

// place returns where in x a name is, or -1.
func (x *credentialIndex) place(name string) int {
	if name == "" {
		return -1
	}
	for i := *x.head(name); i != 0; i = x.next[i] {
		if known := x.names[i-1]; len(name) == len(known) && (name == x.usual[i-1] || strings.EqualFold(name, known)) {
			return int(i) - 1
		}
	}
	return -1
}

// callers tells callers apart without keeping their credentials: by a hash with a
// seed that never leaves the process.
type callers struct {
	seeded sync.Once
	seed   maphash.Seed
	tokens atomic.Pointer[[tokensKept]atomic.Pointer[knownToken]]
}

const (
	tokensKept = 1024    // JWTs whose claims are remembered
	maxJWT     = 8 << 10 // bytes of one that is parsed
)

// A knownToken is a JWT that was parsed.
type knownToken struct{ hash, who uint64 }

// A callerTally is what was found in a request. What is found is added up, so that no
// order matters.
type callerTally struct {
	credentials, accounts, ambiguous uint64
	authorized                       bool // there is an Authorization
}

// of returns a number for those on whose behalf req is sent; 0 if it does not say.
func (c *callers) of(req *http.Request) uint64 {
	c.seeded.Do(func() { c.seed = maphash.MakeSeed() })
	var t callerTally
	for name, values := range req.Header {
		r, n := headerSources.find(name)
		if n == 0 {
			continue
		}
		for _, v := range values {
			if r == isCookies {
				c.cookies(&t, v)
			} else {
				c.add(&t, r, n, v)
			}
		}
	}
	if req.URL != nil {
		if req.URL.RawQuery != "" {
			c.query(&t, req.URL.RawQuery)
		}
		if req.URL.User != nil && !t.authorized {
			// As http.Client sends it.
			password, _ := req.URL.User.Password()
			basic := base64.StdEncoding.EncodeToString([]byte(req.URL.User.Username() + ":" + password))
			c.add(&t, isAuthorization, headerSources.first, "Basic "+basic)
		}
	}
	if t.credentials == 0 && req.URL != nil {
		t.credentials = c.path(req.URL)
	}
	if t.credentials == 0 {
		t.credentials = t.ambiguous
	}
	return t.credentials + t.accounts
}

// add adds what a source says, which is the nth of all.
func (c *callers) add(t *callerTally, r role, n int, v string) {
	v = textproto.TrimString(v)
	if v == "" {
		return
	}
	var who uint64
	switch r {
	case isAuthorization:
		t.authorized = true
		if who = c.authorization(v); who == 0 {
			return
		}
	case isAccessKey:
		v, _, _ = strings.Cut(v, "/")
		who = c.hash(v)
	default:
		who = c.plain(v)
	}
	who = mixed(who, n)
	switch r {
	case isAccount:
		t.accounts += who
	case isAmbiguous:
		t.ambiguous += who
	default:
		t.credentials += who
	}
}

func (c *callers) hash(s string) uint64 { return maphash.String(c.seed, s) }

// mixed makes another number of who for each n, never 0.
func mixed(who uint64, n int) uint64 {
	high, low := bits.Mul64(who+uint64(n)*0x9e3779b97f4a7c15, 0xd6e8feb86659fd93) //nolint:gosec // n is small
	return (high ^ low) | 1
}

// query adds what the parameters say. They are decoded, where need be, as the
// server does.
func (c *callers) query(t *callerTally, raw string) {
	for part := range strings.SplitSeq(raw, "&") {
		name, v, _ := strings.Cut(part, "=")
		r, n := querySources.find(unescaped(name))
		if n == 0 {
			continue
		}
		v = unescaped(v)
		if r == isAmbiguous && isJWT(v) { // nothing else looks like one
			r = isCredential
		}
		c.add(t, r, n, v)
	}
}

func unescaped(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

// cookies adds the sessions that a Cookie header holds.
func (c *callers) cookies(t *callerTally, header string) {
	for part := range strings.SplitSeq(header, ";") {
		name, v, _ := strings.Cut(textproto.TrimString(part), "=")
		name = strings.TrimPrefix(strings.TrimPrefix(name, "__Host-"), "__Secure-")
		r, n := cookieSources.find(name)
		if n == 0 {
			for i, prefix := range [...]string{"wordpress_logged_in_", "SESS", "SSESS", "ASPSESSIONID"} { // WordPress; Drupal, and Spring's SESSION; Drupal; ASP
				if strings.HasPrefix(name, prefix) {
					r, n = isAmbiguous, cookieSources.first+len(cookieSources.sources)+i
				}
			}
		}
		if n != 0 {
			c.add(t, r, n, v)
		}
	}
}

// A pathSource is where a service has a credential in a URL's path. No more than these
// is looked for: a path says what is asked for, and a key for each thing would know
// nothing of what the server has said of the last.
type pathSource struct {
	host     string            // of the service, or the domain that it is in
	before   string            // what comes first; a * stands for what has no slash
	segments int               // which are the credential
	anywhere func(string) bool // whether it is one also at another host, such as a proxy's; nil if that can not be seen
}

var pathSources = [...]pathSource{
	{"api.telegram.org", "/bot", 1, isBotToken}, // core.telegram.org/bots/api#authorizing-your-bot; the server may be one's own
	{"api.telegram.org", "/file/bot", 1, isBotToken},
	{"hooks.slack.com", "/services/", 3, isSlackHook}, // docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
	{"hooks.slack.com", "/workflows/", 4, nil},
	{"hooks.slack.com", "/triggers/", 3, nil},
	{"discord.com", "/api/webhooks/", 2, isDiscordHook}, // discord.com/developers/docs/resources/webhook, by which limits are: /docs/topics/rate-limits
	{"discord.com", "/api/*/webhooks/", 2, isDiscordHook},
	{"webhook.office.com", "/webhookb2/", 4, nil},             // Teams: learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors
	{"open.feishu.cn", "/open-apis/bot/v2/hook/", 1, nil},     // open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
	{"open.larksuite.com", "/open-apis/bot/v2/hook/", 1, nil}, // the same abroad
	{"hooks.zapier.com", "/hooks/catch/", 2, nil},             // help.zapier.com, "Trigger Zaps from webhooks"
	{"maker.ifttt.com", "/trigger/*/with/key/", 1, nil},       // help.ifttt.com, "Webhooks service FAQ"
	{"maker.ifttt.com", "/trigger/*/json/with/key/", 1, nil},  // the same
	{"events.pagerduty.com", "/integration/", 1, nil},         // developer.pagerduty.com/docs, "Events API"
	{"infura.io", "/v3/", 1, nil},                             // docs.metamask.io/services/get-started/infura
	{"g.alchemy.com", "/v2/", 1, nil},                         // alchemy.com/docs
}

// pathBegins says of the first two letters of a path whether a source begins with
// them: most paths have none, and pay for no more than this.
var pathBegins = func() (begins [1 << 10]bool) {
	for _, s := range pathSources {
		begins[pathBegin(s.before)] = true
	}
	return begins
}()

func pathBegin(path string) int { return int(path[1]&0x1f)<<5 | int(path[2]&0x1f) }

// path returns who has the credential in a path; 0 if there is none.
func (c *callers) path(u *url.URL) uint64 {
	credential, n := pathCredential(u)
	if n == 0 {
		return 0
	}
	return mixed(c.hash(credential), n)
}

// pathCredential returns the segments of a path that are a credential, and the
// number of their source; 0 if there is none.
func pathCredential(u *url.URL) (credential string, n int) {
	if len(u.Path) < 3 || !pathBegins[pathBegin(u.Path)] {
		return "", 0
	}
	for i := range pathSources {
		s := &pathSources[i]
		if u.Path[1:3] != s.before[1:3] {
			continue
		}
		credential := firstSegments(behind(u.Path, s.before), s.segments)
		if credential != "" && (inDomain(u.Hostname(), s.host) || s.anywhere != nil && s.anywhere(credential)) {
			return credential, 3001 + i
		}
	}
	return "", 0
}

// behind returns what follows in a path that begins like pattern; "" if it does not.
func behind(path, pattern string) string {
	for {
		literal, more, star := strings.Cut(pattern, "*")
		rest, ok := strings.CutPrefix(path, literal)
		switch {
		case !ok:
			return ""
		case !star:
			return rest
		}
		path, pattern = rest[max(strings.IndexByte(rest, '/'), 0):], more
	}
}

// firstSegments returns the first n segments of a path; "" if there are fewer.
func firstSegments(path string, n int) string {
	end := -1
	for range n {
		from := end + 1
		if from > len(path) {
			return ""
		}
		length := strings.IndexByte(path[from:], '/')
		if length < 0 {
			length = len(path) - from
		}
		if length == 0 {
			return ""
		}
		end = from + length
	}
	return path[:end]
}

func inDomain(host, domain string) bool {
	i := len(host) - len(domain)
	return i >= 0 && strings.EqualFold(host[i:], domain) && (i == 0 || host[i-1] == '.')
}

// isBotToken reports whether s is "123456789:" and 35 characters.
func isBotToken(s string) bool {
	id, token, _ := strings.Cut(s, ":")
	return len(id) >= 5 && strings.Trim(id, "0123456789") == "" && len(token) >= 30 && isBase64URL(token)
}

// isSlackHook reports whether s is "T0123ABCD/B0123ABCD/" and 24 characters.
func isSlackHook(s string) bool {
	team, s, _ := strings.Cut(s, "/")
	app, token, _ := strings.Cut(s, "/")
	const capitals = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return len(team) >= 9 && team[0] == 'T' && strings.Trim(team, capitals) == "" &&
		len(app) >= 9 && app[0] == 'B' && strings.Trim(app, capitals) == "" && len(token) >= 20 && isBase64URL(token)
}

// isDiscordHook reports whether s is a number of 17 digits or more, a slash and 68
// characters.
func isDiscordHook(s string) bool {
	id, token, _ := strings.Cut(s, "/")
	return 17 <= len(id) && len(id) <= 20 && strings.Trim(id, "0123456789") == "" && len(token) >= 60 && isBase64URL(token)
}

func isBase64URL(s string) bool {
	for i := range len(s) {
		if classOfRune(rune(s[i])) == 0 && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return true
}

// plain returns who has a credential that has no scheme.
func (c *callers) plain(v string) uint64 {
	if isJWT(v) {
		return c.jwt(v)
	}
	return c.hash(v)
}

// authorization returns who has a credential with a scheme; 0 if it does not say.
func (c *callers) authorization(v string) uint64 {
	scheme, rest, ok := cutScheme(v)
	switch {
	case !ok && !strings.Contains(v, "ignature=") && !strings.HasPrefix(v, "bce-auth-v"):
		return c.plain(v)
	case isJWT(rest):
		return c.jwt(rest)
	case len(scheme) == len("Bearer") && strings.EqualFold(scheme, "Bearer"):
		return mixed(c.hash(rest), 1)
	case len(scheme) == len("Basic") && strings.EqualFold(scheme, "Basic"):
		return mixed(c.hash(rest), 2)
	case strings.EqualFold(scheme, "Negotiate"), strings.EqualFold(scheme, "NTLM"), strings.EqualFold(scheme, "Kerberos"):
		return 0 // another ticket each time, and who it is for is sealed in it
	case strings.HasPrefix(v, "bce-auth-v"): // Baidu: bce-auth-v1/access key/time/…
		_, id, _ := strings.Cut(v, "/")
		id, _, _ = strings.Cut(id, "/")
		return c.hash(id)
	}
	if who := c.signer(scheme, rest); who != 0 {
		return who
	}
	if !ok {
		return c.hash(v)
	}
	return c.schemed(scheme, rest)
}

// cutScheme cuts a credential behind its scheme, and the blanks that follow.
func cutScheme(v string) (scheme, rest string, ok bool) {
	i := strings.IndexByte(v, ' ')
	if i < 0 {
		i = strings.IndexByte(v, '\t')
	}
	if i < 0 {
		return v, "", false
	}
	return v[:i], textproto.TrimString(v[i:]), true
}

// schemed returns who has a credential that is opaque. A scheme has no case: RFC
// 9110, section 11.1.
func (c *callers) schemed(scheme, rest string) uint64 {
	var lower [16]byte // those that are longer differ before
	n := copy(lower[:], scheme)
	for i, b := range lower[:n] {
		if 'A' <= b && b <= 'Z' {
			lower[i] = b + 'a' - 'A'
		}
	}
	return maphash.Bytes(c.seed, lower[:n]) + mixed(c.hash(rest), 3)
}

// keyedSchemes are those whose credential is a key's name, a colon and a
// signature: AWS Signature Version 2 (docs.aws.amazon.com/AmazonS3/latest/userguide/RESTAuthentication.html),
// Azure Storage (learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key), Alibaba OSS, Huawei OBS, Qiniu.
var keyedSchemes = [...]string{"AWS", "SharedKey", "SharedKeyLite", "OSS", "OBS", "Qiniu", "QBox"}

// signerNames are the parameters that tell who made a signature, which is another
// each time.
var signerNames = [...]string{
	"Credential",         // AWS Signature Version 4 and those like it: Google, Tencent, Alibaba, Azure App Configuration
	"keyId",              // HTTP signatures, draft-cavage-http-signatures; Oracle Cloud
	"username",           // Digest: RFC 7616, section 3.4; Kong's HMAC
	"oauth_consumer_key", // OAuth 1: RFC 5849, section 3.5.1, with
	"oauth_token",        // the user that it acts for
	"client_token",       // Akamai EdgeGrid: techdocs.akamai.com/developer/docs/edgegrid, with
	"access_token",       //
	"id",                 // Hawk: github.com/mozilla/hawk; MAC
	"skn",                // Azure Service Bus: learn.microsoft.com/rest/api/eventhub/generate-sas-token, of
	"sr",                 //
	"q-ak",               // Tencent COS
}

// signer returns who made a signature; 0 if there is none, or it does not say.
func (c *callers) signer(scheme, rest string) (who uint64) {
	if rest == "" {
		rest = scheme // Tencent COS has none
	}
	for _, name := range keyedSchemes {
		if id, _, ok := strings.Cut(rest, ":"); ok && strings.EqualFold(scheme, name) {
			return c.hash(id)
		}
	}
	if !slices.ContainsFunc([]string{"ignature=", "nonce=", "mac=", "sig="}, func(s string) bool { return strings.Contains(rest, s) }) {
		return 0
	}
	for i, name := range signerNames {
		if v := parameter(rest, name); v != "" {
			if i == 0 {
				v, _, _ = strings.Cut(v, "/") // AWS appends the date
			}
			who += mixed(c.hash(v), i+1)
		}
	}
	return who
}

// parameter returns the value of a parameter in a credential, or "" if there is
// none.
func parameter(s, name string) string {
	for at := 0; ; at += len(name) {
		i := strings.Index(s[at:], name)
		if i < 0 {
			return ""
		}
		at += i
		v, ok := strings.CutPrefix(s[at+len(name):], "=")
		if !ok || at > 0 && !strings.ContainsRune(" ,;&", rune(s[at-1])) {
			continue
		}
		if quoted, ok := strings.CutPrefix(v, `"`); ok {
			return beforeAny(quoted, `"`)
		}
		return beforeAny(v, ", ;&")
	}
}

// isJWT reports whether s looks like a JSON Web Token: three parts, of which the first
// is the Base64 of what begins with a brace.
func isJWT(s string) bool {
	return len(s) > 2 && s[0] == 'e' && strings.IndexByte("wxyz0123456789-_", s[1]) >= 0 && strings.Count(s, ".") == 2
}

// jwt returns who has a JSON Web Token. One that is fresh for each request has the
// same claims as the last: it is told by them, and nobody looks at the signature. That
// is safe: whoever forges a token only waits in the queue of whom they claim to be, in
// this process, and sends with the forged token that the server refuses.
func (c *callers) jwt(s string) uint64 {
	hash := c.hash(s)
	if len(s) > maxJWT {
		return hash
	}
	kept := c.tokens.Load()
	if kept == nil {
		c.tokens.CompareAndSwap(nil, new([tokensKept]atomic.Pointer[knownToken]))
		kept = c.tokens.Load()
	}
	place := &kept[hash%tokensKept]
	if t := place.Load(); t != nil && t.hash == hash {
		return t.who
	}
	t := &knownToken{hash, hash}
	if claims := claimsOf(s); claims != nil {
		t.who = maphash.Bytes(c.seed, claims)
	}
	place.Store(t)
	return t.who
}

// claimNames are those of a JWT's claims that tell callers apart: the issuer and
// the subject (RFC 7519, section 4.1), without which none does; the authorised party,
// which is the application (OpenID Connect Core 1.0, section 2; RFC 9068; Okta's cid;
// Microsoft's appid); and the tenant (Microsoft's tid; Auth0's org_id).
var claimNames = [...]string{"iss", "sub", "azp", "client_id", "cid", "appid", "tid", "tenant", "tenant_id", "org_id"}

// claimsOf returns those claims of a JWT, or nil if it is to be told by its bytes.
// A claim that is there twice may be read in two ways (RFC 7519, section 4).
func claimsOf(s string) []byte {
	_, s, _ = strings.Cut(s, ".")
	payload, signature, ok := strings.Cut(s, ".")
	if !ok || strings.Contains(signature, ".") { // one that is encrypted has more parts
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var found [len(claimNames)]json.RawMessage
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil
		}
		var v json.RawMessage
		if d.Decode(&v) != nil {
			return nil
		}
		name, _ := t.(string)
		if i := slices.Index(claimNames[:], name); i >= 0 {
			if found[i] != nil {
				return nil
			}
			found[i] = v
		}
	}
	if _, err := d.Token(); err != nil { // it is cut short
		return nil
	}
	var claims []byte
	for i, v := range found {
		var text string
		isText := json.Unmarshal(v, &text) == nil && text != ""
		switch {
		case i < 2 && !isText:
			return nil // neither a number nor nothing is an issuer or a subject
		case strings.ContainsRune(text, utf8.RuneError):
			return nil // what is no UTF-8, nor half of a surrogate pair, is read as this, whatever it is
		case isText:
			claims = strconv.AppendQuote(claims, text)
		case v != nil && !bytes.Equal(v, []byte("null")) && !bytes.Equal(v, []byte(`""`)):
			claims = append(claims, v...)
		}
		claims = append(claims, ' ')
	}
	return claims
}
