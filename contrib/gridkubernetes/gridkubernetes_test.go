package gridkubernetes

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

// endpointSlice is one of the Service grid. An endpoint is an address, or an address and a host name
// with a slash between them.
func endpointSlice(name string, kind discoveryv1.AddressType, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "app", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "grid"}},
		AddressType: kind,
	}
	for _, e := range endpoints {
		address, host, named := strings.Cut(e, "/")
		one := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: new(bool)}} // not ready
		if named {
			one.Hostname = &host
		}
		s.Endpoints = append(s.Endpoints, one)
	}
	return s
}

func TestNamesOfNodes(t *testing.T) {
	const four, six, fqdn = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN
	empty := endpointSlice("empty", four)
	empty.Endpoints = make([]discoveryv1.Endpoint, 1)
	type list []any
	for name, test := range map[string]struct {
		source Source
		slices list
		want   string
	}{
		"nothing":         {Source{}, nil, ""},
		"several slices":  {Source{}, list{endpointSlice("a", four, "10.0.0.1"), endpointSlice("b", four, "10.0.0.2", "10.0.0.3")}, "http://10.0.0.1:9000 http://10.0.0.2:9000 http://10.0.0.3:9000"},
		"IPv6":            {Source{Scheme: "https"}, list{endpointSlice("a", six, "fd00::1")}, "https://[fd00::1]:9000"},
		"both":            {Source{}, list{endpointSlice("b", six, "fd00::1"), endpointSlice("a", four, "10.0.0.1")}, "http://10.0.0.1:9000"},
		"names":           {Source{}, list{endpointSlice("a", fqdn, "node1.example")}, "http://node1.example:9000"},
		"no address":      {Source{}, list{empty}, ""},
		"host names":      {Source{Scheme: "https", Domain: "grid.app.svc"}, list{endpointSlice("a", four, "10.0.0.1/grid-0", "10.0.0.2", "10.0.0.3/grid-1")}, "https://grid-0.grid.app.svc:9000 https://grid-1.grid.app.svc:9000"},
		"none has a name": {Source{Domain: "grid.app.svc"}, list{endpointSlice("a", four, "10.0.0.1")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			test.source.Port = 9000
			names := test.source.names(test.slices)
			slices.Sort(names)
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// lister says for the fake that it sends no bookmarks, which only its Clientset does by itself.
type lister struct{ client.EndpointSlicesGetter }

func (lister) IsWatchListSemanticsUnSupported() bool { return true }

func source(c *fake.Clientset) *Source {
	return &Source{Client: lister{c.DiscoveryV1()}, Namespace: "app", Service: "grid", Port: 9000}
}

func TestEndpointSlicesThatChange(t *testing.T) {
	c := fake.NewClientset(endpointSlice("a", discoveryv1.AddressTypeIPv4, "10.0.0.1"))
	w := testnode.Watch(t, source(c))
	w.Wait(t, "http://10.0.0.1:9000")
	api := c.DiscoveryV1().EndpointSlices("app")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	waitForWatch(t, c) // The fake loses what happens before.
	must(api.Create(t.Context(), endpointSlice("b", discoveryv1.AddressTypeIPv4, "10.0.0.2"), metav1.CreateOptions{}))
	w.Wait(t, "http://10.0.0.1:9000 http://10.0.0.2:9000")
	must(api.Update(t.Context(), endpointSlice("a", discoveryv1.AddressTypeIPv4, "10.0.0.3"), metav1.UpdateOptions{}))
	w.Wait(t, "http://10.0.0.2:9000 http://10.0.0.3:9000")
	must(nil, api.Delete(t.Context(), "a", metav1.DeleteOptions{}))
	w.Wait(t, "http://10.0.0.2:9000")
	must(nil, api.Delete(t.Context(), "b", metav1.DeleteOptions{}))
	w.Wait(t, "")

	// The fake does not select for watches, so what was asked is looked at.
	for _, action := range c.Actions() {
		var asked string
		switch a := action.(type) {
		case kubetesting.ListAction:
			asked = a.GetListRestrictions().Labels.String()
		case kubetesting.WatchAction:
			asked = a.GetWatchRestrictions().Labels.String()
		default:
			continue
		}
		if asked != "kubernetes.io/service-name=grid" || action.GetNamespace() != "app" {
			t.Errorf("asked for %s in %s", asked, action.GetNamespace())
		}
	}
}

// waitForWatch returns when the fake has been asked to watch.
func waitForWatch(t *testing.T, c *fake.Clientset) {
	t.Helper()
	testkit.Eventually(t, "a watch", func() bool {
		return slices.ContainsFunc(c.Actions(), func(a kubetesting.Action) bool { return a.GetVerb() == "watch" })
	})
}

func TestWhatTheServerRefusesIsAFailure(t *testing.T) {
	for _, verb := range []string{"list", "watch"} {
		c := fake.NewClientset(endpointSlice("a", discoveryv1.AddressTypeIPv4, "10.0.0.1"))
		forbidden := apierrors.NewForbidden(discoveryv1.Resource("endpointslices"), "", nil)
		c.PrependReactor(verb, "endpointslices", func(kubetesting.Action) (bool, runtime.Object, error) { return true, nil, forbidden })
		if verb == "watch" {
			c.PrependWatchReactor("endpointslices", kubetesting.DefaultWatchReactor(nil, forbidden))
		}
		w := testnode.Watch(t, source(c))
		if err := w.WaitErr(t); !apierrors.IsForbidden(err) {
			t.Errorf("%s: Watch returned %v", verb, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, s := range []Source{{Service: "grid", Port: 1}, {Namespace: "app", Port: 1}, {Namespace: "app", Service: "grid"}, {Namespace: "app", Service: "grid", Port: 65536}} {
		if err := s.Watch(t.Context(), func([]string) {}); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}

// Nodes that are the pods of a Service, each with an address of its own.
func TestNodesFindEachOther(t *testing.T) {
	const n = 4
	address := func(i int) string { return fmt.Sprintf("127.78.0.%d", i+1) }
	var listeners []net.Listener
	port := 0
	for i := range n {
		l, err := net.Listen("tcp", net.JoinHostPort(address(i), fmt.Sprint(port)))
		if err != nil {
			t.Skipf("needs all of 127.0.0.0/8, as Linux has it, and the same port at each: %v", err)
		}
		defer l.Close()
		listeners = append(listeners, l)
		port = l.Addr().(*net.TCPAddr).Port
	}
	c := fake.NewClientset(endpointSlice("a", discoveryv1.AddressTypeIPv4, address(0), address(1)))
	var nodes []*testnode.Discovering
	for _, l := range listeners {
		s := source(c)
		s.Port = port
		nodes = append(nodes, testnode.Discover(t, l, s, time.Second))
	}
	testnode.WaitMesh(t, nodes[:2]...)
	testkit.Eventually(t, "all watches", func() bool {
		watches := 0
		for _, a := range c.Actions() {
			if a.GetVerb() == "watch" {
				watches++
			}
		}
		return watches >= n
	})
	update := func(of ...int) {
		t.Helper()
		var addresses []string
		for _, i := range of {
			addresses = append(addresses, address(i))
		}
		s := endpointSlice("a", discoveryv1.AddressTypeIPv4, addresses...)
		if _, err := c.DiscoveryV1().EndpointSlices("app").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	update(0, 1, 2, 3)
	testnode.WaitMesh(t, nodes...)
	update() // says nothing
	nodes[0].Log.Wait(t, "grid: discovery failed", "has no hosts")
	testnode.WaitMesh(t, nodes...)
	nodes[2].Stop()
	update(0, 1, 3)
	testnode.WaitMesh(t, nodes[0], nodes[1], nodes[3])
}
