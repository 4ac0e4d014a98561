package gridconsul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// agent answers as the HTTP API of a Consul agent does, by its documentation: registration of
// services, checks with a TTL, and queries that wait for a change.
type agent struct {
	*httptest.Server

	t       *testing.T
	stopped chan struct{} // closed when the test ends

	mu        sync.Mutex // Protects following.
	down      bool
	instances map[string]*instance // by ID
	index     uint64
	changed   chan struct{} // closed by the next change
	queries   []string
}

type instance struct {
	api.AgentServiceRegistration

	fails bool // its check
}

func newAgent(t *testing.T) *agent {
	a := &agent{t: t, stopped: make(chan struct{}), instances: make(map[string]*instance), index: 10, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/agent/service/register", a.register)
	mux.HandleFunc("PUT /v1/agent/service/deregister/{id}", a.deregister)
	mux.HandleFunc("PUT /v1/agent/check/update/{check}", a.update)
	mux.HandleFunc("GET /v1/health/service/{name}", a.health)
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.isDown() {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		close(a.stopped)
		a.Close()
	})
	return a
}

func (a *agent) client() *api.Client {
	a.t.Helper()
	c, err := api.NewClient(&api.Config{Address: a.URL, Transport: new(http.Transport)})
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func (a *agent) isDown() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.down
}

// change changes what is registered, and wakes those who wait for that.
func (a *agent) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	a.index++
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) register(w http.ResponseWriter, r *http.Request) {
	in := new(instance)
	if err := json.NewDecoder(r.Body).Decode(&in.AgentServiceRegistration); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.add(in)
}

func (a *agent) add(in *instance) { a.change(func() { a.instances[in.ID] = in }) }

// expire does what happens when nobody has passed the check of an instance for its TTL.
func (a *agent) expire(id string) { a.change(func() { a.instances[id].fails = true }) }

func (a *agent) deregister(w http.ResponseWriter, r *http.Request) {
	known := false
	a.change(func() {
		if in := a.instances[r.PathValue("id")]; in != nil {
			known = true
			delete(a.instances, in.ID)
		}
	})
	if !known {
		http.Error(w, "Unknown service ID", http.StatusNotFound)
	}
}

func (a *agent) update(w http.ResponseWriter, r *http.Request) {
	var body struct{ Status string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Status != api.HealthPassing {
		a.t.Errorf("check %+v, %v", body, err)
	}
	id, ok := strings.CutPrefix(r.PathValue("check"), "service:")
	known, failed := false, false
	a.mu.Lock()
	if in := a.instances[id]; ok && in != nil {
		known, failed = true, in.fails
	}
	a.mu.Unlock()
	switch {
	case !known:
		http.Error(w, fmt.Sprintf("Unknown check ID %q", r.PathValue("check")), http.StatusNotFound)
	case failed:
		a.change(func() { a.instances[id].fails = false })
	}
}

func (a *agent) health(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	index, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, err := time.ParseDuration(q.Get("wait"))
	if err != nil {
		a.t.Errorf("wait: %v", err)
	}
	late := time.After(wait)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queries = append(a.queries, r.URL.RawQuery)
	for waiting := index != 0; waiting && a.index == index; {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			waiting = false
		case <-r.Context().Done():
			waiting = false
		case <-a.stopped:
			waiting = false
		}
		a.mu.Lock()
	}
	var entries []*api.ServiceEntry
	for _, in := range a.instances {
		if in.Name == r.PathValue("name") && !(in.fails && q.Has("passing")) {
			entries = append(entries, &api.ServiceEntry{
				Node:    &api.Node{Node: "machine", Address: "10.9.9.9"},
				Service: &api.AgentService{ID: in.ID, Service: in.Name, Address: in.Address, Port: in.Port, Meta: in.Meta},
			})
		}
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(a.index, 10))
	json.NewEncoder(w).Encode(entries)
}

// ids returns what is registered.
func (a *agent) ids() (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.instances {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
