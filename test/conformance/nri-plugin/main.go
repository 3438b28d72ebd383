// An NRI plugin made with NRI's own Go library: what minke speaks is what plugins in the field speak.
//
// It adjusts each container by what its pod's annotations ask for, and writes one JSON line for each
// event that it hears of. Used by nri.test.ts.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

type line struct {
	Event     string   `json:"event"`
	Pod       string   `json:"pod,omitempty"`
	Container string   `json:"container,omitempty"`
	Pods      int      `json:"pods,omitempty"`
	Args      []string `json:"args,omitempty"`
	Config    string   `json:"config,omitempty"`
	Failed    int      `json:"failed,omitempty"`
	Pid       int      `json:"pid,omitempty"`
}

type plugin struct {
	stub stub.Stub
	out  *json.Encoder
}

func (p *plugin) say(event string, pod *api.PodSandbox, c *api.Container) {
	_ = p.out.Encode(line{Event: event, Pod: pod.GetName(), Container: c.GetName(), Args: c.GetArgs()})
}

func (p *plugin) Configure(_ context.Context, config, runtime, version string) (stub.EventMask, error) {
	// One that the runtime started has no standard output.
	if file, ok := strings.CutPrefix(config, "output="); ok {
		out, err := os.OpenFile(strings.TrimSpace(file), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		p.out = json.NewEncoder(out)
	}
	_ = p.out.Encode(line{Event: "Configure " + runtime, Config: config, Pid: os.Getpid()})
	return 0, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	_ = p.out.Encode(line{Event: "Synchronize", Pods: len(pods)})
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.say("RunPodSandbox", pod, nil)
	if pod.GetAnnotations()["nri-test/refuse"] == "pod" {
		return fmt.Errorf("this pod is not wanted")
	}
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.say("StopPodSandbox", pod, nil)
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.say("RemovePodSandbox", pod, nil)
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.say("CreateContainer", pod, c)
	wishes := pod.GetAnnotations()
	adjust := &api.ContainerAdjustment{}
	if value, ok := wishes["nri-test/env"]; ok {
		key, rest, _ := strings.Cut(value, "=")
		adjust.AddEnv(key, rest)
	}
	if value, ok := wishes["nri-test/remove-env"]; ok {
		adjust.RemoveEnv(value)
	}
	if value, ok := wishes["nri-test/mount"]; ok {
		adjust.AddMount(&api.Mount{Source: value, Destination: "/nri", Type: "bind", Options: []string{"rbind", "ro"}})
	}
	if _, ok := wishes["nri-test/device"]; ok {
		adjust.AddDevice(&api.LinuxDevice{Path: "/dev/nri-null", Type: "c", Major: 1, Minor: 3})
	}
	if value, ok := wishes["nri-test/hook"]; ok {
		adjust.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo hooked > " + value}}}})
	}
	if _, ok := wishes["nri-test/rlimit"]; ok {
		adjust.AddRlimit("RLIMIT_NOFILE", 512, 256)
	}
	if value, ok := wishes["nri-test/oom"]; ok {
		var score int
		fmt.Sscanf(value, "%d", &score)
		adjust.SetLinuxOomScoreAdj(&score)
	}
	// Much of it: more than one read of the Go library's buffers.
	if _, ok := wishes["nri-test/large"]; ok {
		adjust.AddEnv("LARGE", strings.Repeat("x", 100_000))
	}
	return adjust, nil, nil
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	p.say("PostCreateContainer", pod, c)
	return nil
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	p.say("StartContainer", pod, c)
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	p.say("PostStartContainer", pod, c)
	// Unsolicited, from the plugin's side: the second one is of a container that is not there.
	go func() {
		time.Sleep(50 * time.Millisecond)
		update := &api.ContainerUpdate{ContainerId: c.GetId()}
		update.SetLinuxCPUShares(512)
		missing := &api.ContainerUpdate{ContainerId: "missing"}
		missing.SetLinuxCPUShares(512)
		failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update, missing})
		if err == nil {
			_ = p.out.Encode(line{Event: "UpdateContainers", Container: c.GetName(), Failed: len(failed)})
		}
	}()
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.say("UpdateContainer", pod, c)
	update := &api.ContainerUpdate{ContainerId: c.GetId()}
	update.SetLinuxCPUShares(777)
	return []*api.ContainerUpdate{update}, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	p.say("PostUpdateContainer", pod, c)
	return nil
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.say("StopContainer", pod, c)
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	p.say("RemoveContainer", pod, c)
	return nil
}

func main() {
	socket := flag.String("socket", "", "where the runtime listens")
	flag.Parse()
	p := &plugin{out: json.NewEncoder(os.Stdout)}
	var options []stub.Option
	// Without a socket the runtime has started it, and the environment says all three.
	if *socket != "" {
		options = []stub.Option{stub.WithSocketPath(*socket), stub.WithPluginName("gotest"), stub.WithPluginIdx("10")}
	}
	made, err := stub.New(p, options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	p.stub = made
	if err := made.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
