// Package debugz serves a page that shows what a grid node is doing: the cluster and who is
// connected to whom, each connection with its traffic, handlers with their latencies, open calls,
// recent errors, and traces.
//
//	http.Handle("/debug/grid/", debugz.Handler(m, debugz.Options{}))
//
// The page works without JavaScript and loads nothing from elsewhere. With JavaScript it updates
// once a second. The same is available as JSON, under status.json. Anybody who can reach the page
// can read it, and it shows the names of nodes and handlers and the texts of errors: serve it to
// operators, not to strangers.
//
// A node knows only its own connections. If all nodes call [RegisterCluster], the page of each
// shows those of all.
package debugz

import (
	"bytes"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// Options configures a Handler. Its zero value selects the defaults.
type Options struct {
	// Cluster has the page show the connections of all nodes on which RegisterCluster was called, and
	// not only those of this node.
	Cluster bool
	// Refresh is how often the page updates. The default is a second.
	Refresh time.Duration
	// Hosts are further names that the page is served at, with or without a port. It always answers
	// at localhost, the host in the node's own name, and IP addresses. A request for any other Host
	// is answered with 421, since a web page whose own name resolves to this server could read the
	// answer.
	Hosts []string
}

// Handler returns an HTTP handler that serves the status page of a node, at any path that ends with
// a slash, and below it the files that the page needs. A path without the slash is redirected
// there. It answers GET and HEAD. The query parameter q shows only rows that contain its text;
// sort=peers.p99 sorts a table by a column, as the links in its head do; traces=1 shows the requests
// being traced. All apply to status.json too, which with Options.Cluster and all=1 also has what the
// other nodes say of themselves.
//
// What the page says of the present was counted in the last minute and the last five: see [Window].
// For that it remembers what had been counted when somebody looked, in five minutes at most; it does
// nothing while nobody looks. Each look pings the peers, so that the next one shows which of them
// hang. Requests are traced until 30 seconds after the last POST with traces=1, which the page sends while it shows
// them. A POST from a page of another site is answered with 403.
func Handler(m *grid.Manager, o Options) http.Handler {
	if o.Refresh <= 0 {
		o.Refresh = time.Second
	}
	return &handler{m: m, options: o, guard: newGuard(m.HostName(), o.Hosts), observer: observer{m: m}, watch: watch{m: m}}
}

type handler struct {
	m        *grid.Manager
	options  Options
	guard    *guard
	observer observer
	watch    watch
	cluster  cluster
	nodes    nodes
}

//go:embed assets
var assets embed.FS

var pages = template.Must(template.New("").Funcs(funcs).ParseFS(assets, "assets/*.html"))

// policy lets the page use its own files and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// The files beside the page.
var files = map[string]string{
	"debugz.css": "text/css; charset=utf-8",
	"debugz.js":  "text/javascript; charset=utf-8",
	"icon.svg":   "image/svg+xml",
}

// ServeHTTP is part of http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // without one, browsers send no Origin with a POST of the page
	header.Set("Cache-Control", "no-store")
	switch {
	case !h.guard.known(r.Host):
		http.Error(w, "this page is not served under that name; its operator can add names (debugz.Options.Hosts), or use an address",
			http.StatusMisdirectedRequest)
		return
	case r.Method == http.MethodPost && !h.guard.ownOrigin(r):
		http.Error(w, "sent by the page of another site", http.StatusForbidden)
		return
	case r.Method == http.MethodPost && asksForTraces(r):
		h.watch.prolong()
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD") // POST is for traces alone
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	where := requestPath(r)
	name := path.Base(where)
	kind, isFile := files[name]
	switch {
	case isFile:
		b, err := assets.ReadFile("assets/" + name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		send(w, kind, b)
	case name == "status.json":
		b, err := json.MarshalIndent(h.take(r).Status, "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		send(w, "application/json", append(b, '\n'))
	case name == "live.html":
		h.render(w, "live", r)
	case strings.HasSuffix(where, "/") && r.Method == http.MethodPost:
		to := url.URL{Path: "./", RawQuery: r.URL.RawQuery}
		header.Set("Location", to.String())
		w.WriteHeader(http.StatusSeeOther) // so that loading the page again is a GET
	case strings.HasSuffix(where, "/"):
		h.render(w, "page", r)
	default:
		to := url.URL{Path: "./" + name + "/", RawQuery: r.URL.RawQuery}
		header.Set("Location", to.String()) // http.Redirect would take it for relative to a stripped path
		w.WriteHeader(http.StatusMovedPermanently)
	}
}

// take takes the status that a request asks for.
func (h *handler) take(r *http.Request) *observation {
	o := h.observer.look()
	o.Cluster = h.cluster.rows(h.m, o.Peers, h.options.Cluster)
	for i := range o.Peers {
		o.Peers[i].Page = o.Cluster[i+1].Page
	}
	if asksForTraces(r) {
		o.showTraces(&h.watch)
	}
	if h.options.Cluster && r.URL.Query().Get("all") == "1" {
		o.Nodes = h.nodes.all(h.m, o.Peers)
	}
	o.keep(r.URL.Query())
	return o
}

// asksForTraces reports whether a request is to show what is watched.
func asksForTraces(r *http.Request) bool { return r.URL.Query().Get("traces") == "1" }

// requestPath is the path that was asked for, whatever http.StripPrefix has made of it.
func requestPath(r *http.Request) string {
	if u, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return u.Path
	}
	return r.URL.Path
}

// render writes one of the templates.
func (h *handler) render(w http.ResponseWriter, name string, r *http.Request) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, h.view(r)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	send(w, "text/html; charset=utf-8", b.Bytes())
}

func send(w http.ResponseWriter, kind string, b []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Write(b) // net/http sends no body in answer to HEAD
}
