package servers

import (
	"strings"
	"text/template"
	"time"
)

// The programs.
const (
	nginx   = "nginx"
	haproxy = "haproxy"
)

// hold503 is whether the rows that refuse with 503 are held to losing no call, as the
// others are. They are not yet: where few are refused, as by limit_conn with 16 callers,
// it takes long to tell them from failures by chance, and a call may be given up.
const hold503 = false

// A limit is one that a server enforces.
type limit struct {
	name    string
	program string
	status  int
	asks    int           // seconds, in a Retry-After with each refusal; 0 for none
	latency time.Duration // of the backend

	rate  int // requests a second; 0 for no such limit
	burst int // requests that it takes at once besides
	slots int // requests at a time; 0 for no such limit
}

// The limits. A backend that answers in 10ms lets one caller alone exceed 50 requests a
// second, and eight at a time to one that takes 20ms are 400 a second.
var limits = []limit{
	{name: "nginx limit_req, 429", program: nginx, status: 429, latency: 10 * time.Millisecond, rate: 50, burst: 10},
	{name: "nginx limit_req, 429, Retry-After: 1", program: nginx, status: 429, asks: 1, latency: 10 * time.Millisecond, rate: 50, burst: 10},
	{name: "nginx limit_req, 503", program: nginx, status: 503, latency: 10 * time.Millisecond, rate: 50, burst: 10},
	{name: "nginx limit_conn, 429", program: nginx, status: 429, latency: 20 * time.Millisecond, slots: 8},
	{name: "nginx limit_conn, 503", program: nginx, status: 503, latency: 20 * time.Millisecond, slots: 8},
	{name: "haproxy stick table, 429", program: haproxy, status: 429, latency: 10 * time.Millisecond, rate: 50},
	{name: "haproxy stick table, 429, Retry-After: 1", program: haproxy, status: 429, asks: 1, latency: 10 * time.Millisecond, rate: 50},
}

// held reports whether the limit is one that no call is to be lost to.
func (l *limit) held() bool { return l.status != 503 || hold503 }

// allows is how many requests of so many callers the server would take in some time, at
// most. A caller sends one request after the other, and so does a slot:
//
//	callers / latency * time                 what the callers can send
//	rate * time + burst + 1                  nginx's limit_req: a bucket of burst, over the one that is due
//	rate * time + rate                       haproxy's: in its first period there is nothing before
//	min(slots, callers) / latency * time     nginx's limit_conn
//
// The latency is the backend's alone, so the time that a request is on its way, in both
// programs and in the client, counts against the client.
func (l *limit) allows(callers int, d time.Duration) float64 {
	most := float64(callers) / l.latency.Seconds() * d.Seconds()
	switch {
	case l.slots > 0:
		most = min(most, float64(l.slots)/l.latency.Seconds()*d.Seconds())
	case l.program == nginx:
		most = min(most, float64(l.rate)*d.Seconds()+float64(l.burst)+1)
	default:
		most = min(most, float64(l.rate)*d.Seconds()+float64(l.rate))
	}
	return most
}

// config returns the server's configuration: it listens at addr, passes on to backend,
// and writes below dir.
func (l *limit) config(dir, addr, backend string) string {
	var b strings.Builder
	if err := configs.ExecuteTemplate(&b, l.program, map[string]any{
		"dir": dir, "addr": addr, "backend": backend,
		"rate": l.rate, "burst": l.burst, "slots": l.slots, "asks": l.asks, "named": l.status != 503,
	}); err != nil {
		panic(err)
	}
	return b.String()
}

// What is not set is as it comes with the programs. nginx is one process that does the
// work itself, so that there is one to end; its limits do not charge what they refuse.
// haproxy's does: the request is counted first, and then refused.
var configs = template.Must(template.New("").Parse(`
{{- define "nginx" -}}
daemon off;
master_process off;
pid {{.dir}}/nginx.pid;
error_log {{.dir}}/error.log;
events { }
http {
	access_log off;
	client_body_temp_path {{.dir}}/body;
	proxy_temp_path {{.dir}}/proxy;
	fastcgi_temp_path {{.dir}}/fastcgi;
	uwsgi_temp_path {{.dir}}/uwsgi;
	scgi_temp_path {{.dir}}/scgi;
	upstream backend {
		server {{.backend}};
		keepalive 64;
	}
	{{if .slots -}}
	limit_conn_zone $binary_remote_addr zone=callers:1m;
	{{if .named}}limit_conn_status 429;{{end}}
	{{- else -}}
	limit_req_zone $binary_remote_addr zone=callers:1m rate={{.rate}}r/s;
	{{if .named}}limit_req_status 429;{{end}}
	{{- end}}
	{{if .asks}}map $status $asks { 429 {{.asks}}; }{{end}}
	server {
		listen {{.addr}};
		{{if .asks}}add_header Retry-After $asks always;{{end}}
		location / {
			{{if .slots}}limit_conn callers {{.slots}};{{else}}limit_req zone=callers burst={{.burst}} nodelay;{{end}}
			proxy_pass http://backend;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
{{end}}
{{- define "haproxy" -}}
global
	nbthread 1
	maxconn 1000
defaults
	mode http
	timeout connect 10s
	timeout client 1m
	timeout server 1m
frontend front
	bind {{.addr}}
	stick-table type ip size 1k expire 1m store http_req_rate(1s)
	http-request track-sc0 src
	http-request deny deny_status 429 {{if .asks}}hdr Retry-After {{.asks}} {{end}}if { sc_http_req_rate(0) gt {{.rate}} }
	default_backend back
backend back
	server one {{.backend}}
{{end}}`))
