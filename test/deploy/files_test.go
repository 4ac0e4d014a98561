package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	compose "github.com/compose-spec/compose-go/v2/types"
	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const folder = "../../deploy"

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// objects are those of kubernetes/grid.yaml.
type objects struct {
	service core.Service
	set     apps.StatefulSet
	budget  policy.PodDisruptionBudget
	network networking.NetworkPolicy
}

func kubernetes(t *testing.T) (o objects) {
	t.Helper()
	types := map[string]any{"Service": &o.service, "StatefulSet": &o.set, "PodDisruptionBudget": &o.budget, "NetworkPolicy": &o.network}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(read(t, "kubernetes/grid.yaml"))))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(text, &kind); err != nil {
			t.Fatal(err)
		}
		object := types[kind.Kind]
		if object == nil {
			t.Fatalf("an object of kind %q", kind.Kind)
		}
		if err := yaml.UnmarshalStrict(text, object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		delete(types, kind.Kind)
	}
	if len(types) > 0 {
		t.Errorf("missing: %v", types)
	}
	return o
}

func TestKubernetesObjectsFitTogether(t *testing.T) {
	o := kubernetes(t)
	spec := o.set.Spec
	if o.service.Spec.ClusterIP != core.ClusterIPNone || !o.service.Spec.PublishNotReadyAddresses || spec.PodManagementPolicy != apps.ParallelPodManagement {
		t.Error("pods that are not ready could not find each other, and none would ever be ready")
	}
	if spec.ServiceName != o.service.Name {
		t.Errorf("serviceName %q, and the Service is %q", spec.ServiceName, o.service.Name)
	}
	labels := spec.Template.Labels
	for where, selector := range map[string]map[string]string{
		"Service": o.service.Spec.Selector, "StatefulSet": spec.Selector.MatchLabels,
		"PodDisruptionBudget": o.budget.Spec.Selector.MatchLabels, "NetworkPolicy": o.network.Spec.PodSelector.MatchLabels,
	} {
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("%s selects %s=%s, and the pods have %q", where, key, value, labels[key])
			}
		}
	}
	container := spec.Template.Spec.Containers[0]
	ports := make(map[string]int32)
	for _, port := range container.Ports {
		ports[port.Name] = port.ContainerPort
	}
	if ports["grid"] != o.service.Spec.Ports[0].Port {
		t.Error("the Service has another port than the pods")
	}
	name := fmt.Sprintf("_%s._tcp.%s.%s.svc.cluster.local.", o.service.Spec.Ports[0].Name, o.service.Name, o.service.Namespace)
	if !slices.Contains(container.Args, "-discover=dns:http://"+name) {
		t.Errorf("the pods do not look for %s", name)
	}
	local := fmt.Sprintf("-local=http://$(POD_NAME).%s.%s.svc.cluster.local:%d", o.service.Name, o.service.Namespace, ports["grid"])
	if !slices.Contains(container.Args, local) {
		t.Errorf("the pods are not called as their SRV records say: %s", local)
	}
	for probe, p := range map[string]*core.Probe{"live": container.LivenessProbe, "ready": container.ReadinessProbe} {
		if p.HTTPGet.Path != "/health/"+probe || ports[p.HTTPGet.Port.String()] == 0 {
			t.Errorf("%s probe: %+v", probe, p.HTTPGet)
		}
	}
}

// The pods as processes: their addresses are of this machine, and the hosts in a file.
func TestKubernetesArgumentsStartAGrid(t *testing.T) {
	o := kubernetes(t)
	c := newCluster(t, int(*o.set.Spec.Replicas))
	for i := range c.hosts {
		c.start(t, i, o.set.Spec.Template.Spec.Containers[0].Args, func(arg string) string {
			switch name, _, _ := strings.Cut(arg, "="); name {
			case "-local":
				return name + "=" + c.hosts[i]
			case "-discover":
				return name + "=file:" + c.hostsFile
			case "-listen":
				return name + "=" + strings.TrimPrefix(c.hosts[i], "http://")
			case "-secret-file":
				return name + "=" + c.secretFile
			case "-http":
				return name + "=" + c.ops[i]
			}
			return arg
		})
	}
	c.waitReady(t)
}

func TestComposeFileStartsAGrid(t *testing.T) {
	project, err := loader.LoadWithContext(t.Context(), compose.ConfigDetails{
		WorkingDir:  filepath.Join(folder, "docker"),
		ConfigFiles: []compose.ConfigFile{{Filename: "compose.yaml", Content: read(t, "docker/compose.yaml")}},
	}, func(o *loader.Options) { o.SetProjectName("grid", true) })
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, len(project.Services))
	replace := []string{"/run/secrets/grid", c.secretFile}
	for i := range c.hosts {
		replace = append(replace, fmt.Sprintf("http://node%d:9000", i+1), c.hosts[i])
	}
	for i := range c.hosts {
		service := project.Services[fmt.Sprint("node", i+1)]
		if len(service.Secrets) != 1 || service.Build.Dockerfile != "deploy/docker/Dockerfile" {
			t.Errorf("%s: %+v", service.Name, service)
		}
		args := slices.DeleteFunc(slices.Clone(service.Command), func(arg string) bool { return strings.HasPrefix(arg, "-http=") })
		c.start(t, i, append(args, "-http="+c.ops[i]), strings.NewReplacer(replace...).Replace)
	}
	c.waitReady(t)
}

func TestSystemdUnitStartsANode(t *testing.T) {
	unit := string(read(t, "systemd/grid-node.service"))
	_, after, _ := strings.Cut(unit, "ExecStart=/usr/local/bin/gridctl ")
	line, _, _ := strings.Cut(after, "\n")
	c := newCluster(t, 1)
	c.start(t, 0, strings.Fields(line), strings.NewReplacer(
		"${LOCAL}", c.hosts[0], "/etc/grid/hosts", c.hostsFile, "${CREDENTIALS_DIRECTORY}/secret", c.secretFile, "localhost:8080", c.ops[0],
	).Replace)
	c.waitReady(t)

	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED: no systemd-analyze to verify the unit")
	}
	copied := filepath.Join(t.TempDir(), "grid-node.service")
	if err := os.WriteFile(copied, []byte(strings.Replace(unit, "/usr/local/bin/gridctl", gridctl(t), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(verify, "verify", copied).CombinedOutput(); err != nil || bytes.Contains(out, []byte("grid-node")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// What the image runs to build the program, on this machine.
func TestDockerfileBuilds(t *testing.T) {
	_, after, _ := strings.Cut(string(read(t, "docker/Dockerfile")), "\nRUN ")
	build, _, _ := strings.Cut(after, "\n")
	program := filepath.Join(t.TempDir(), "gridctl")
	command := strings.ReplaceAll(build, "-o /gridctl", "-o "+program)
	sh := exec.Command("sh", "-c", command)
	sh.Dir = "../.." // as COPY . . has it
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	if out, err := exec.Command(program, "version").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestEnvoyReadsItsFile(t *testing.T) {
	json, err := yaml.YAMLToJSONStrict(read(t, "envoy/envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var config bootstrap.Bootstrap
	if err := protojson.Unmarshal(json, &config); err != nil {
		t.Fatal(err)
	}
	if err := config.ValidateAll(); err != nil {
		t.Error(err)
	}
}
