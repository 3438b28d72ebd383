"""What a machine does until its power is cut: images come and go, pods and ConfigMaps too.

    power-cut-work.py PLAN      PLAN: JSON of power-cuts.test.ts

What begins and what is done is written past the file system, into blocks of the same disk that no
file system has (O_DIRECT, no flush): among the disk's writes stands what had been promised
until then, and no promise makes anything durable.
"""
import http.client
import http.server
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time

plan = json.load(open(sys.argv[1]))
disk = os.open(plan["device"], os.O_WRONLY | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
lock = threading.Lock()
said = 0


def say(word, key, value=None):
    """value: None where nothing stands under the key afterwards."""
    global said
    line = json.dumps({"word": word, "key": key, "value": value}).encode()
    with lock:
        page[:] = line.ljust(4096, b"\0")
        os.pwrite(disk, page, plan["notesAt"] + 4096 * said)
        said += 1
        if said * 4096 >= plan["notesBytes"]:
            os._exit(0)


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(plan["api"])


def ask(method, path, body=None):
    connection = Connection("localhost", timeout=120)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"content-type": "application/json"} if text else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def done(key, value, work):
    say("begin", key, value)
    status, text = work()
    if status not in (200, 201) or '"error"' in text.splitlines()[-1]:
        print("failed", key, status, text[-500:], flush=True)
        return
    say("done", key, value)


class Registry(http.server.BaseHTTPRequestHandler):
    """Of the layouts in the plan: /v2/NAME/manifests/TAG, /v2/NAME/blobs/DIGEST."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        kind, body = "application/octet-stream", b"{}"
        if len(parts) >= 4:
            layout = plan["served"][parts[1]]
            digest = parts[-1]
            if parts[-2] == "manifests":
                top = json.load(open(layout + "/index.json"))["manifests"][0]
                kind, digest = top["mediaType"], top["digest"] if ":" not in digest else digest
            body = open(layout + "/blobs/sha256/" + digest.split(":")[1], "rb").read()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def remove(ref):
    run = subprocess.run(["crictl", "--timeout", "60s", "-r", "unix://" + plan["cri"], "rmi", ref], capture_output=True)
    return (200 if run.returncode == 0 else 500), run.stderr.decode() or "-"


def load(image):
    done("image " + image["ref"], image["id"], lambda: ask("POST", "/minke/v1/images/load", {"path": image["layout"]}))


def images():
    pulled, one, other = plan["pulled"], plan["one"], plan["other"]
    while True:
        done("image " + pulled["ref"], pulled["id"], lambda: ask("POST", "/minke/v1/images/pull", {"reference": pulled["ref"]}))
        load(one)
        done("image " + pulled["ref"], None, lambda: remove(pulled["ref"]))
        load(other)
        done("image " + one["ref"], None, lambda: remove(one["ref"]))


def pods():
    round = 0
    base = "/api/v1/namespaces/default"
    while True:
        round += 1
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"v": str(round)}}
        path, method = (base + "/configmaps", "POST") if round == 1 else (base + "/configmaps/map", "PUT")
        done("configmaps map", str(round), lambda: ask(method, path, config))
        name = "pod-%d" % (round % 3)
        done("pods " + name, "there", lambda: ask("POST", base + "/pods", pod(name)))
        if round % 2:
            time.sleep(1)

        def gone():
            status, text = ask("DELETE", base + "/pods/" + name + "?gracePeriodSeconds=0")
            while ask("GET", base + "/pods/" + name)[0] == 200:
                time.sleep(0.1)
            return status, text

        done("pods " + name, None, gone)


def pod(name):
    container = {"name": "main", "image": plan["podImage"], "command": ["sleep", "1000"], "imagePullPolicy": "Never"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


registry = http.server.ThreadingHTTPServer(("127.0.0.1", plan["port"]), Registry)
threading.Thread(target=registry.serve_forever, daemon=True).start()
threading.Thread(target=pods, daemon=True).start()
images()
