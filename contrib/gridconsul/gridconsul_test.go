package gridconsul

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
	"github.com/hashicorp/consul/api"
)

func waitErr(t *testing.T, w *testnode.Watching, want string) {
	t.Helper()
	if err := w.WaitErr(t); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Watch returned %v, want %q", err, want)
	}
}

func TestInstancesOfTheService(t *testing.T) {
	agent := newAgent(t)
	a := testnode.Watch(t, &Source{Client: agent.client(), Service: "grid", Local: "http://10.0.0.1:9000"})
	a.Wait(t, "http://10.0.0.1:9000")
	b := testnode.Watch(t, &Source{Client: agent.client(), Service: "grid", Local: "https://[fd00::2]"})
	a.Wait(t, "http://10.0.0.1:9000 https://[fd00::2]")
	b.Wait(t, "http://10.0.0.1:9000 https://[fd00::2]")
	if got := fmt.Sprint(agent.ids()); got != "[grid-http-10.0.0.1-9000 grid-https-fd00--2]" {
		t.Errorf("registered: %s", got)
	}
	agent.mu.Lock()
	in := agent.instances["grid-https-fd00--2"]
	agent.mu.Unlock()
	if in.Address != "fd00::2" || in.Port != 443 || in.Check.TTL != "15s" || in.Check.Status != "passing" {
		t.Errorf("registered: %+v, %+v", in, in.Check)
	}

	// Others may register nodes too.
	agent.add(&instance{AgentServiceRegistration: api.AgentServiceRegistration{ID: "x", Name: "grid", Address: "10.0.0.3", Port: 9003}})
	agent.add(&instance{AgentServiceRegistration: api.AgentServiceRegistration{ID: "y", Name: "grid", Port: 9004}})
	agent.add(&instance{AgentServiceRegistration: api.AgentServiceRegistration{ID: "z", Name: "another", Port: 9005}})
	a.Wait(t, "http://10.0.0.1:9000 http://10.0.0.3:9003 http://10.9.9.9:9004 https://[fd00::2]")
	testnode.Watch(t, &Source{Client: agent.client(), Service: "another", Scheme: "https"}).Wait(t, "https://10.9.9.9:9005")

	b.Stop()
	waitErr(t, b, "canceled")
	a.Wait(t, "http://10.0.0.1:9000 http://10.0.0.3:9003 http://10.9.9.9:9004")
	agent.mu.Lock()
	defer agent.mu.Unlock()
	for _, q := range agent.queries {
		if !strings.Contains(q, "passing=1") || !strings.Contains(q, "wait=60000ms") {
			t.Errorf("query %s", q)
		}
	}
}

func TestANodePassesItsCheck(t *testing.T) {
	agent := newAgent(t)
	onlooker := testnode.Watch(t, &Source{Client: agent.client(), Service: "grid"})
	s := &Source{Client: agent.client(), Service: "grid", Local: "http://a:1", TTL: 30 * time.Millisecond}
	if err := s.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	onlooker.Wait(t, "http://a:1")
	agent.expire(s.id())
	onlooker.Wait(t, "") // Nobody passes it.
	testnode.Watch(t, s)
	onlooker.Wait(t, "http://a:1")
	for range 3 {
		agent.expire(s.id())
		testkit.Eventually(t, "the check to pass again", func() bool {
			agent.mu.Lock()
			defer agent.mu.Unlock()
			return !agent.instances[s.id()].fails
		})
	}
}

// The agent has forgotten the node, so that its check is unknown.
func TestANodeThatIsForgottenSaysSo(t *testing.T) {
	agent := newAgent(t)
	s := &Source{Client: agent.client(), Service: "grid", Local: "http://a:1", TTL: time.Second}
	w := testnode.Watch(t, s)
	w.Wait(t, "http://a:1")
	if err := s.Client.Agent().ServiceDeregister(s.id()); err != nil {
		t.Fatal(err)
	}
	waitErr(t, w, "Unknown check ID")
	testnode.Watch(t, s).Wait(t, "http://a:1")
}

func TestAStateThatWasRestoredIsFoundAnew(t *testing.T) {
	agent := newAgent(t)
	w := testnode.Watch(t, &Source{Client: agent.client(), Service: "grid"})
	w.Wait(t, "")
	agent.change(func() { agent.index = 2 }) // is less than before
	testkit.Eventually(t, "a query that does not wait", func() bool {
		agent.mu.Lock()
		defer agent.mu.Unlock()
		fresh := slices.DeleteFunc(slices.Clone(agent.queries), func(q string) bool { return strings.Contains(q, "index=") })
		return len(fresh) == 2
	})
	agent.add(&instance{AgentServiceRegistration: api.AgentServiceRegistration{ID: "x", Name: "grid", Address: "a", Port: 1}})
	w.Wait(t, "http://a:1")
}

func TestOptionsAreChecked(t *testing.T) {
	for want, s := range map[string]Source{
		"Service is required": {Local: "http://a:1"},
		"the port":            {Service: "grid", Local: "a"},
	} {
		if err := s.Watch(t.Context(), func([]string) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Watch returned %v, want %q", err, want)
		}
	}
}

// Nodes find each other, and lose nothing while Consul has no leader.
func TestNodesOutliveConsul(t *testing.T) {
	agent := newAgent(t)
	discover := func() *testnode.Discovering {
		l, name := testkit.Listen(t)
		s := &Source{Client: agent.client(), Service: "grid", Local: name, TTL: time.Second}
		return testnode.Discover(t, l, s, time.Second)
	}
	a, b := discover(), discover()
	testnode.WaitMesh(t, a, b)
	agent.change(func() { agent.down = true })
	for _, d := range []*testnode.Discovering{a, b} {
		d.Log.Wait(t, "grid: discovery failed", "No cluster leader")
	}
	c := discover()
	c.Log.Wait(t, "grid: discovery failed", "register")
	testnode.WaitMesh(t, a, b)
	agent.change(func() { agent.down = false })
	testnode.WaitMesh(t, a, b, c)
	b.Stop()
	testnode.WaitMesh(t, a, c)
}
