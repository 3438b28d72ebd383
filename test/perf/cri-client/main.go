// The client of `npm run bench -- cri` that is as a kubelet is: Go, grpc-go, k8s.io/cri-api.
//
// Reads one command a line from standard input, as JSON, and answers each with a line of JSON: what was measured, in
// milliseconds, or an error. The measured loops are here whole, so that nothing of the benchmark stands between two
// calls. cri-node-client.mjs does the same in Node.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	callTimeout = 60 * time.Second
	// As a kubelet has it: k8s.io/cri-client, maxMsgSize.
	maxMessageBytes = 16 << 20
)

type command struct {
	Do      string `json:"do"`
	Socket  string `json:"socket"`
	Image   string `json:"image"`
	Name    string `json:"name"`
	Pods    int    `json:"pods"`
	Workers int    `json:"workers"`
	Lists   int    `json:"lists"`
}

// One contender: its connection, and the pods that `start` has made and `stop` removes.
type contender struct {
	runtime runtime.RuntimeServiceClient
	pods    []string
}

func main() {
	answers := json.NewEncoder(os.Stdout)
	check(answers.Encode(map[string]string{"client": "grpc-go " + grpc.Version}))
	contenders := map[string]*contender{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked command
		check(json.Unmarshal(lines.Bytes(), &asked))
		answer, err := obey(contenders, asked)
		if err != nil {
			answer = map[string]string{"error": fmt.Sprintf("%s: %v", asked.Do, err)}
		}
		check(answers.Encode(answer))
	}
	check(lines.Err())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func obey(contenders map[string]*contender, asked command) (any, error) {
	one, found := contenders[asked.Socket]
	if !found {
		connection, err := grpc.NewClient("unix:"+asked.Socket,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)))
		if err != nil {
			return nil, err
		}
		one = &contender{runtime: runtime.NewRuntimeServiceClient(connection)}
		contenders[asked.Socket] = one
	}
	switch asked.Do {
	case "life":
		return one.life(asked.Name, asked.Image)
	case "start":
		return one.start(asked)
	case "list":
		return one.list(asked.Lists)
	case "stop":
		return one.stop(asked.Workers)
	}
	return nil, errors.New("unknown command")
}

// One call, with a deadline of its own as a kubelet gives it, and how long it took.
func timed[Q, A any](took *float64, call func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	startedAt := time.Now()
	answer, err := call(ctx, request)
	*took = milliseconds(time.Since(startedAt))
	return answer, err
}

func milliseconds(duration time.Duration) float64 {
	return float64(duration.Nanoseconds()) / 1e6
}

type verbTimes struct {
	RunPodSandbox    float64 `json:"runPodSandbox"`
	CreateContainer  float64 `json:"createContainer"`
	StartContainer   float64 `json:"startContainer"`
	ExecSync         float64 `json:"execSync"`
	StopContainer    float64 `json:"stopContainer"`
	RemoveContainer  float64 `json:"removeContainer"`
	StopPodSandbox   float64 `json:"stopPodSandbox"`
	RemovePodSandbox float64 `json:"removePodSandbox"`
}

// A pod's life, verb by verb.
func (one *contender) life(name, image string) (any, error) {
	var ms verbTimes
	sandboxID, containerID, err := one.startPod(&ms, name, image)
	if err != nil {
		return nil, err
	}
	exec := &runtime.ExecSyncRequest{ContainerId: containerID, Cmd: []string{"true"}, Timeout: 10}
	ran, err := timed(&ms.ExecSync, one.runtime.ExecSync, exec)
	if err != nil {
		return nil, err
	}
	if ran.ExitCode != 0 {
		return nil, fmt.Errorf("true ended with %d", ran.ExitCode)
	}
	stop := &runtime.StopContainerRequest{ContainerId: containerID}
	if _, err := timed(&ms.StopContainer, one.runtime.StopContainer, stop); err != nil {
		return nil, err
	}
	remove := &runtime.RemoveContainerRequest{ContainerId: containerID}
	if _, err := timed(&ms.RemoveContainer, one.runtime.RemoveContainer, remove); err != nil {
		return nil, err
	}
	return ms, one.endPod(&ms, sandboxID)
}

func (one *contender) startPod(ms *verbTimes, name, image string) (sandboxID, containerID string, err error) {
	config := sandboxConfig(name)
	sandbox, err := timed(&ms.RunPodSandbox, one.runtime.RunPodSandbox, &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", "", err
	}
	create := &runtime.CreateContainerRequest{
		PodSandboxId:  sandbox.PodSandboxId,
		SandboxConfig: config,
		Config:        containerConfig(image),
	}
	container, err := timed(&ms.CreateContainer, one.runtime.CreateContainer, create)
	if err != nil {
		return "", "", err
	}
	start := &runtime.StartContainerRequest{ContainerId: container.ContainerId}
	_, err = timed(&ms.StartContainer, one.runtime.StartContainer, start)
	return sandbox.PodSandboxId, container.ContainerId, err
}

func (one *contender) endPod(ms *verbTimes, sandboxID string) error {
	stop := &runtime.StopPodSandboxRequest{PodSandboxId: sandboxID}
	if _, err := timed(&ms.StopPodSandbox, one.runtime.StopPodSandbox, stop); err != nil {
		return err
	}
	remove := &runtime.RemovePodSandboxRequest{PodSandboxId: sandboxID}
	_, err := timed(&ms.RemovePodSandbox, one.runtime.RemovePodSandbox, remove)
	return err
}

// As a kubelet asks for it: network and IPC of the pod, a PID namespace for each container.
func sandboxConfig(name string) *runtime.PodSandboxConfig {
	namespaces := &runtime.NamespaceOption{
		Network: runtime.NamespaceMode_POD,
		Pid:     runtime.NamespaceMode_CONTAINER,
		Ipc:     runtime.NamespaceMode_POD,
	}
	return &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: name, Namespace: "bench"},
		Linux: &runtime.LinuxPodSandboxConfig{
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: namespaces},
		},
	}
}

func containerConfig(image string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "main"},
		Image:    &runtime.ImageSpec{Image: image},
		Command:  []string{"sleep", "1000"},
	}
}

// Pods of one container, by as many workers as asked for.
func (one *contender) start(asked command) (any, error) {
	var lock sync.Mutex
	return inParallel(asked.Pods, asked.Workers, func(i int) error {
		var ms verbTimes
		sandboxID, _, err := one.startPod(&ms, fmt.Sprintf("%s-%d", asked.Name, i), asked.Image)
		if sandboxID != "" {
			lock.Lock()
			one.pods = append(one.pods, sandboxID)
			lock.Unlock()
		}
		return err
	})
}

func (one *contender) stop(workers int) (any, error) {
	pods := one.pods
	one.pods = nil
	return inParallel(len(pods), workers, func(i int) error {
		var ms verbTimes
		return one.endPod(&ms, pods[i])
	})
}

// What both lists take, several times.
func (one *contender) list(times int) (any, error) {
	var answer struct {
		Sandboxes  []float64 `json:"sandboxes"`
		Containers []float64 `json:"containers"`
	}
	for range times {
		var sandboxes, containers float64
		pods, err := timed(&sandboxes, one.runtime.ListPodSandbox, &runtime.ListPodSandboxRequest{})
		if err != nil {
			return nil, err
		}
		all, err := timed(&containers, one.runtime.ListContainers, &runtime.ListContainersRequest{})
		if err != nil {
			return nil, err
		}
		if len(pods.Items) < len(one.pods) || len(all.Containers) < len(one.pods) {
			return nil, fmt.Errorf("%d pods and %d containers of %d", len(pods.Items), len(all.Containers), len(one.pods))
		}
		answer.Sandboxes = append(answer.Sandboxes, sandboxes)
		answer.Containers = append(answer.Containers, containers)
	}
	return answer, nil
}

func inParallel(count, workers int, work func(int) error) (any, error) {
	var next atomic.Int64
	problems := make(chan error, workers)
	startedAt := time.Now()
	for range workers {
		go func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				if err := work(i); err != nil {
					problems <- err
					return
				}
			}
			problems <- nil
		}()
	}
	var problem error
	for range workers {
		problem = errors.Join(problem, <-problems)
	}
	return map[string]float64{"seconds": time.Since(startedAt).Seconds()}, problem
}
