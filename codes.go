package sturdy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// codeClasses says what codes and types mean, whatever the status. A new code
// of a server's is a row here and a sample in testdata/responses.
// Codes that say no more than the status does are in kindClasses.
var codeClasses = map[string]Class{
	// Credit, allowance or account: a person has to act.
	"insufficient_quota":                ErrQuotaExceeded,
	"credit_balance_exhausted":          ErrQuotaExceeded,
	"organization_spend_limit_exceeded": ErrQuotaExceeded,
	"project_spend_limit_exceeded":      ErrQuotaExceeded,
	"organization_usage_limit_exceeded": ErrQuotaExceeded,
	"billing_not_active":                ErrQuotaExceeded,
	"billing_hard_limit_reached":        ErrQuotaExceeded,
	"billing_error":                     ErrQuotaExceeded,
	"enforced_spend_limit_reached":      ErrQuotaExceeded,
	"insufficient_user_quota":           ErrQuotaExceeded,
	"insufficient_balance":              ErrQuotaExceeded,
	"insufficient_credits":              ErrQuotaExceeded,
	"quota_exceeded":                    ErrQuotaExceeded,
	"budget_exceeded":                   ErrQuotaExceeded,
	"servicequotaexceededexception":     ErrQuotaExceeded,
	"openrouter_credits":                ErrQuotaExceeded,
	"openrouter_key_limit":              ErrQuotaExceeded,
	"openrouter_free_tier_daily":        ErrQuotaExceeded,
	"quota_exhausted":                   ErrQuotaExceeded,

	"request_too_large":    ErrRequestTooLarge,
	"payload_too_large":    ErrRequestTooLarge,
	"tokens_limit_reached": ErrRequestTooLarge,

	"context_length_exceeded":          ErrContextLength,
	"exceed_context_size_error":        ErrContextLength,
	"model_max_prompt_tokens_exceeded": ErrContextLength,
	"context_window_exceeded":          ErrContextLength,
	"contextwindowexceedederror":       ErrContextLength,
	"content_filter":                   ErrContentFilter,
	"content_policy_violation":         ErrContentFilter,
	"responsibleaipolicyviolation":     ErrContentFilter,
	"invalid_prompt":                   ErrContentFilter,
	"image_content_policy_violation":   ErrContentFilter,
	"moderation_blocked":               ErrContentFilter,
	"data_inspection_failed":           ErrContentFilter,
	"sensitive_words_detected":         ErrContentFilter,
	"contentpolicyviolationerror":      ErrContentFilter,

	"invalid_api_key":                     ErrAuthentication,
	"incorrect_api_key":                   ErrAuthentication,
	"api_key_invalid":                     ErrAuthentication,
	"authentication_error":                ErrAuthentication,
	"unauthenticated":                     ErrAuthentication,
	"account_deactivated":                 ErrAuthentication,
	"mismatched_organization":             ErrAuthentication,
	"no_organization":                     ErrAuthentication,
	"invalid_organization":                ErrAuthentication,
	"ip_not_authorized":                   ErrAuthentication,
	"invalid_grant":                       ErrAuthentication,
	"invalid_client":                      ErrAuthentication,
	"unrecognizedclientexception":         ErrAuthentication,
	"token_not_found_in_db":               ErrAuthentication,
	"expiredtokenexception":               ErrAuthentication,
	"invalidsignatureexception":           ErrAuthentication,
	"missingauthenticationtokenexception": ErrAuthentication,
	"expired_key":                         ErrAuthentication,

	"missing_scope":                        ErrPermissionDenied,
	"permission_error":                     ErrPermissionDenied,
	"permission_denied":                    ErrPermissionDenied,
	"unsupported_country_region_territory": ErrPermissionDenied,
	"accessdeniedexception":                ErrPermissionDenied,
	"key_model_access_denied":              ErrPermissionDenied,

	"rate_limit_exceeded":      ErrRateLimit,
	"rate_limit_error":         ErrRateLimit,
	"rate_limited":             ErrRateLimit,
	"ratelimitexceeded":        ErrRateLimit,
	"userratelimitexceeded":    ErrRateLimit,
	"ratelimitreached":         ErrRateLimit,
	"too_many_requests":        ErrRateLimit,
	"throttlingexception":      ErrRateLimit,
	"throttlingerror":          ErrRateLimit,
	"toomanyrequestsexception": ErrRateLimit,
	"requestthrottled":         ErrRateLimit,

	"overloaded_error":            ErrOverloaded,
	"overloaded":                  ErrOverloaded,
	"server_is_overloaded":        ErrOverloaded,
	"engine_overloaded":           ErrOverloaded,
	"engine_overloaded_error":     ErrOverloaded,
	"model_capacity_exhausted":    ErrOverloaded,
	"model_overloaded":            ErrOverloaded,
	"unavailable_error":           ErrOverloaded,
	"service_unavailable_error":   ErrOverloaded,
	"serviceunavailableexception": ErrOverloaded,
	"modelnotreadyexception":      ErrOverloaded,
	"capacity_exceeded":           ErrOverloaded,

	"timeout_error":         ErrTimeout,
	"modeltimeoutexception": ErrTimeout,
	"deadline_exceeded":     ErrTimeout,

	"model_not_found":    ErrNotFound,
	"not_found_error":    ErrNotFound,
	"deploymentnotfound": ErrNotFound,
	"conflict_error":     ErrConflict,
}

// passingConflicts are the codes of a conflict that passes by itself: something else
// was at work on the same thing.
var passingConflicts = map[string]bool{
	"conflict_error":                  true, // Anthropic's SDKs repeat a 409: https://docs.anthropic.com/en/api/client-sdks
	"lock_timeout":                    true, // https://docs.stripe.com/error-codes#lock-timeout
	"idempotency_key_in_use":          true, // https://docs.stripe.com/error-codes#idempotency-key-in-use
	"operationaborted":                true, // https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
	"concurrentmodificationexception": true, // https://docs.aws.amazon.com/organizations/latest/APIReference/API_CreateAccount.html
	"aborted":                         true, // https://cloud.google.com/apis/design/errors
	"anotheroperationinprogress":      true, // https://learn.microsoft.com/en-us/azure/azure-resource-manager/troubleshooting/common-deployment-errors
}

// kindClasses says what the words for a status mean, where there is no status
// to say it: in the events of a stream.
var kindClasses = map[string]Class{
	"invalid_request_error": ErrBadRequest,
	"badrequesterror":       ErrBadRequest,
	"invalid_argument":      ErrBadRequest,
	"notfounderror":         ErrNotFound,
	"not_found":             ErrNotFound,
	"permissiondeniederror": ErrPermissionDenied,
	"authenticationerror":   ErrAuthentication,
	"ratelimiterror":        ErrRateLimit,
	"resource_exhausted":    ErrRateLimit,
	"tokens":                ErrRateLimit,
	"requests":              ErrRateLimit,
	"unavailable":           ErrOverloaded,
	"server_error":          ErrInternalServer,
	"api_error":             ErrInternalServer,
	"internalservererror":   ErrInternalServer,
	"internal":              ErrInternalServer,
}

// phrases tell a class where servers have no code for it. They are narrow: the
// words "quota", "billing", "safety" or "429" alone mean nothing, they stand in
// links and in explanations of other errors.
var phrases = []struct {
	class Class
	words []string
}{
	{ErrContextLength, []string{
		"maximum context length is", "context length is only", "maximum context length of", "exceeds the context window",
		"exceeds the available context size", "larger than the maximum context size", "exceed context limit",
		"exceeded max context length",
		"longer than the maximum model length", "`inputs` must have less than", "contextwindowexceedederror", "too large for model with", "context length exceeded", "longer than the model's context length",
		"model's maximum context limit", "exceeds the model's maximum context", "exceeds model context",
		"prompt is too long", "maximum prompt length is", "maximum input length is", "input is too long for requested model",
		"`inputs` tokens + `max_new_tokens` must be", "exceeds the maximum number of tokens allowed",
		"input tokens exceed the configured limit", "too many tokens: total number of tokens", "too many tokens: total token",
		"reduce the length of the messages",
	}},
	{ErrContentFilter, []string{
		"rejected as a result of our safety system", "rejected by the safety system", "content management policy",
		"flagged as potentially violating our usage policy", "blocked by content filtering policy", "content exists risk",
		"requires moderation on", "flagged by moderation", "input was flagged", "blocked by our moderation",
		"rejected by content moderation", "contentpolicyviolationerror", "prohibited_content",
	}},
	{ErrAuthentication, []string{
		"incorrect api key", "api key not valid", "invalid api key", "api key expired", "organization has been disabled",
		"security token included in the request is",
	}},
	{ErrPermissionDenied, []string{"user location is not supported"}},
	{ErrOverloaded, []string{
		"model is overloaded", "is currently overloaded", "currently experiencing high demand", "capacity exceeded",
		"no capacity available for model", "server is overloaded", "is currently loading", "server busy", "server is busy",
		"at capacity", "reset reason: overflow",
	}},
}

// quotaPhrases tell used-up credit where no code does.
var quotaPhrases = []string{
	"insufficient balance", "insufficient credits", "requires more credits", "credit balance is too low",
	"doesn't have any credits", "have run out of credits", "used all available credits", "prepayment credits are depleted",
	"exceeded your monthly included credits", "usage credits are required", "extra usage is required",
	"reached your specified api usage limits", "reached its monthly spending limit", "exceeded its current spending limit",
	"budget has been exceeded", "exceededbudget:", "key limit exceeded", "out of call volume quota",
	"doesn't have a free quota tier", "your account is not active, please check your billing", "session usage limit",
	"hourly usage limit",
}

// longPeriods tell a limit that is not over soon. Who does not say when to come
// back means that waiting is of no use.
var longPeriods = []string{
	"per day", "per-day", "/ day", "/day", "daily", "per week", "weekly", "per month", "per-month", "/ month", "/month", "monthly",
}

// class is the verdict on an answer: the first rule that applies. The order is
// the precedence: what decides whether waiting helps comes first.
func (ev *evidence) class() Class {
	for _, rule := range rules {
		if c := rule(ev); c != 0 {
			return c
		}
	}
	return ErrBadRequest
}

var rules = [...]func(*evidence) Class{
	byQuota,
	bySizeOfRequest,
	byFirmStatus,
	byLoad,
	byCode,
	byText,
	byStatus,
	byKind,
}

// byQuota: a code for used-up credit means it under any status. Without a code,
// Google's quotas are told by their ids, and by whether they say when to come
// back.
func byQuota(ev *evidence) Class {
	if ev.says(ErrQuotaExceeded) || ev.status == http.StatusPaymentRequired {
		return ErrQuotaExceeded
	}
	switch ev.status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		// Who says when to try again does not mean that it would be of no use.
		if ev.wait == 0 && ev.has(quotaPhrases...) {
			return ErrQuotaExceeded
		}
	}
	if ev.status != http.StatusTooManyRequests && ev.status >= 400 {
		return 0
	}
	perDay := slices.ContainsFunc(ev.quotas, func(id string) bool {
		return strings.Contains(strings.ToLower(id), "perday")
	})
	if perDay {
		return ErrQuotaExceeded
	}
	if ev.wait > 0 || ev.header.Get("Retry-After") != "" || ev.header.Get("Retry-After-Ms") != "" {
		return 0
	}
	if ev.has(longPeriods...) && !ev.has("minute", "per second") || ev.has("exceeded your current quota") && len(ev.quotas) == 0 && !ev.says(ErrRateLimit) {
		return ErrQuotaExceeded
	}
	return 0
}

// bySizeOfRequest: a request that is larger than its limit never passes, though
// the server says 429 and when to try again.
func bySizeOfRequest(ev *evidence) Class {
	if ev.status == http.StatusRequestEntityTooLarge || ev.says(ErrRequestTooLarge) {
		return ErrRequestTooLarge
	}
	if ev.status != http.StatusTooManyRequests && ev.status >= 400 {
		return 0
	}
	limit, ok := numberAfter(ev.message, "Limit ")
	requested, ok2 := numberAfter(ev.message, "Requested ")
	if ev.has("request too large") || ok && ok2 && requested > limit {
		return ErrRequestTooLarge
	}
	return 0
}

// byFirmStatus: these say what they mean, whatever code stands beside them.
func byFirmStatus(ev *evidence) Class {
	switch ev.status {
	case http.StatusUnauthorized:
		if ev.says(ErrPermissionDenied) {
			return ErrPermissionDenied
		}
		return ErrAuthentication
	case http.StatusForbidden:
		// GitHub's and Google's limits, and moderation at gateways.
		if ev.says(ErrRateLimit) || ev.has("rate limit exceeded", "secondary rate limit") {
			return ErrRateLimit
		}
		for _, c := range [...]Class{ErrContentFilter, ErrAuthentication} {
			if ev.says(c) || ev.wordsOf(c) {
				return c
			}
		}
		return ErrPermissionDenied
	case http.StatusNotFound:
		return ErrNotFound
	}
	return 0
}

// byLoad: some servers say 429, and even that a rate limit was reached, when it
// is they who have too much to do.
func byLoad(ev *evidence) Class {
	if ev.status == http.StatusTooManyRequests && (ev.says(ErrOverloaded) || ev.wordsOf(ErrOverloaded)) {
		return ErrOverloaded
	}
	return 0
}

// byCode: a 4xx is as specific as its code. What a failing server says of
// itself is its status.
func byCode(ev *evidence) Class {
	if ev.status >= 500 {
		return 0
	}
	for _, code := range ev.codes {
		if c := codeClasses[code]; c != 0 {
			return c
		}
	}
	return 0
}

// byText: what some servers say in words alone, and under odd statuses.
func byText(ev *evidence) Class {
	for _, p := range phrases {
		if (p.class == ErrAuthentication || p.class == ErrPermissionDenied) && ev.status != http.StatusBadRequest {
			continue // a gateway that fails quotes its upstream server
		}
		if ev.says(p.class) || ev.wordsOf(p.class) {
			return p.class
		}
	}
	return 0
}

func byStatus(ev *evidence) Class {
	switch ev.status {
	case http.StatusRequestTimeout, http.StatusGatewayTimeout, 524: // 524: Cloudflare, the origin does not answer
		return ErrTimeout
	case http.StatusConflict:
		return ErrConflict
	case http.StatusGone:
		return ErrNotFound
	case http.StatusUnprocessableEntity:
		return ErrUnprocessable
	case http.StatusTooManyRequests:
		return ErrRateLimit
	case http.StatusFailedDependency: // Text Generation Inference: the model failed
		return ErrInternalServer
	case 499, 521, 522, 523: // nginx: the client left; Cloudflare: the origin cannot be reached
		return ErrConnection
	case http.StatusServiceUnavailable, 529:
		// Envoy says in plain text that it has lost its own upstream.
		if ev.has("upstream connect error or disconnect/reset before headers", "no healthy upstream") {
			return ErrInternalServer
		}
		return ErrOverloaded
	}
	if ev.status >= 500 {
		return ErrInternalServer
	}
	if ev.status >= 400 {
		return ErrBadRequest
	}
	return 0
}

// byKind: the event of a stream has no status of its own.
func byKind(ev *evidence) Class {
	for _, code := range ev.codes {
		if c := kindClasses[code]; c != 0 {
			return c
		}
	}
	return ErrInternalServer
}

// says reports whether one of the codes means c.
func (ev *evidence) says(c Class) bool {
	return slices.ContainsFunc(ev.codes, func(code string) bool { return codeClasses[code] == c })
}

// has reports whether the message has one of these phrases in it.
func (ev *evidence) has(phrases ...string) bool {
	return slices.ContainsFunc(phrases, func(phrase string) bool { return strings.Contains(ev.words, phrase) })
}

// wordsOf reports whether the message has a phrase in it that means c.
func (ev *evidence) wordsOf(c Class) bool {
	for _, p := range phrases {
		if p.class == c {
			return ev.has(p.words...)
		}
	}
	return false
}

// numberAfter returns the number that follows word in s, such as "~30,000".
func numberAfter(s, word string) (int64, bool) {
	_, after, ok := strings.Cut(s, word)
	if !ok {
		return 0, false
	}
	digits := before(strings.TrimLeft(after, "~ "), func(r rune) bool { return r != ',' && (r < '0' || '9' < r) })
	n, err := strconv.ParseInt(strings.ReplaceAll(digits, ",", ""), 10, 64)
	return n, err == nil
}

// before returns s up to the first character that f is true of.
func before(s string, f func(rune) bool) string {
	if i := strings.IndexFunc(s, f); i >= 0 {
		return s[:i]
	}
	return s
}
