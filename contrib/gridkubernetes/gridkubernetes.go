// Package gridkubernetes lets the nodes of a grid that run in a Kubernetes cluster find each other:
// it watches the EndpointSlices of their Service, which has the addresses of all pods.
//
//	source := &gridkubernetes.Source{
//		Client:    clientset.DiscoveryV1(),
//		Namespace: "app",
//		Service:   "grid",
//		Port:      9000,
//	}
//	go discovery.Run(ctx, m, source)
//
// Pods that are not ready count too: whether one takes part in the grid, the grid finds out itself,
// and a pod may become ready only once it has found the others.
//
// Whoever can write the Service, its EndpointSlices or the labels of pods decides whom the nodes
// dial, and which names may connect to them. It does not make anybody a member:
// ManagerOptions.AuthRequest and VerifyPeer decide that.
package gridkubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/gridmesh/grid/discovery"
)

// Source is a discovery.Source. Its fields must not change while it is used.
type Source struct {
	// Client is what Clientset.DiscoveryV1 returns. Its service account needs the verbs list and
	// watch for endpointslices in the Namespace.
	Client client.EndpointSlicesGetter
	// Namespace and Service name the Service that selects the pods of all nodes. It needs no
	// address of its own (clusterIP: None), and its ports do not matter.
	Namespace, Service string
	// Port is where all nodes listen, in their pods.
	Port int
	// Scheme is "http" or "https". Empty means "http".
	Scheme string
	// Domain makes names of nodes out of the host names of pods, such as
	// "https://grid-0.grid.app.svc:9000" with "grid.app.svc", in place of their addresses, such as
	// "http://10.0.0.1:9000". The pods of a StatefulSet have such names, if Service is its
	// serviceName. Pods without do not count then.
	Domain string
}

var _ discovery.Source = (*Source)(nil)

// String returns what the log calls the source.
func (s *Source) String() string { return "kubernetes:" + s.Namespace + "/" + s.Service }

// Watch is part of discovery.Source. It finds the names of all pods of the Service, whatever their
// conditions. If they have addresses of both kinds, only IPv4 counts, so that each has one name. It
// returns an error if the API server does not answer, or refuses; it can then be called again.
func (s *Source) Watch(ctx context.Context, found func(hosts []string)) error {
	if s.Namespace == "" || s.Service == "" || s.Port < 1 || s.Port > 65535 {
		return errors.New("gridkubernetes: Source needs a Namespace, a Service and a Port")
	}
	failed, changed := make(chan error, 1), make(chan struct{}, 1)
	informer := cache.NewSharedInformer(s.slices(), new(discoveryv1.EndpointSlice), 0)
	err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !isUsual(err) {
			leave(failed, err)
		}
	})
	if err != nil {
		return err
	}
	wake := func() { leave(changed, struct{}{}) }
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		UpdateFunc: func(any, any) { wake() },
		DeleteFunc: func(any) { wake() },
	})
	if err != nil {
		return err
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { informer.RunWithContext(ctx) })
	synced := informer.HasSyncedChecker().Done()
	for known := false; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-failed:
			return fmt.Errorf("gridkubernetes: %w", err)
		case <-synced:
			known, synced = true, nil
		case <-changed:
		}
		if known {
			found(s.names(informer.GetStore().List()))
		}
	}
}

// slices lists and watches the EndpointSlices of the Service.
func (s *Source) slices() cache.ListerWatcher {
	api := s.Client.EndpointSlices(s.Namespace)
	selector := discoveryv1.LabelServiceName + "=" + s.Service
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return api.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = selector
			return api.Watch(ctx, o)
		},
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, s.Client)
}

// isUsual reports whether a watch has ended as they do now and then. The informer begins another.
func isUsual(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
}

// names returns the names of the nodes in EndpointSlices.
func (s *Source) names(slices []any) []string {
	byKind := make(map[discoveryv1.AddressType][]string)
	for _, slice := range slices {
		slice := slice.(*discoveryv1.EndpointSlice)
		for _, e := range slice.Endpoints {
			for _, address := range e.Addresses[:min(1, len(e.Addresses))] { // the API says that further ones have no meaning
				switch {
				case s.Domain == "":
				case e.Hostname != nil:
					address = *e.Hostname + "." + s.Domain
				default:
					continue
				}
				byKind[slice.AddressType] = append(byKind[slice.AddressType], s.name(address))
			}
		}
	}
	for _, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		if names := byKind[kind]; len(names) > 0 {
			return names
		}
	}
	return byKind[discoveryv1.AddressTypeFQDN]
}

func (s *Source) name(host string) string {
	scheme := s.Scheme
	if scheme == "" {
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(s.Port))
}

// leave puts a value into a channel that has room for one, unless there is one already.
func leave[T any](ch chan<- T, v T) {
	select {
	case ch <- v:
	default:
	}
}
