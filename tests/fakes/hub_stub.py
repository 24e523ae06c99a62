"""A stand-in for the Hub on loopback, enough for models over LFS without Xet; the real client talks to it.

HF_ENDPOINT=http://127.0.0.1:PORT  HF_HUB_DISABLE_XET=1  HF_TOKEN=hf_x   (set before huggingface_hub is imported)
"""

# ruff: noqa: C901, E741, N815, PLR0912, UP031
import base64
import hashlib
import json
import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOCK = threading.RLock()


def git_oid(b):
    return hashlib.sha1(b"blob %d\0" % len(b) + b).hexdigest()


class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos, lfs, log = {}, {}, []  # repo -> {"private", "commits":[{oid, files:{path:{...}}}]}

    def log_message(self, *a):
        pass

    def body(self):
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            out = b""
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                if not n:
                    self.rfile.readline()
                    return out
                out += self.rfile.read(n)
                self.rfile.readline()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def out(self, code, body=b"", **h):
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            h.setdefault("Content_Type", "application/json")
        self.send_response(code)
        for k, v in h.items():
            self.send_header(k.replace("_", "-"), str(v))
        if "Content_Length" not in h:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def err(self, code, msg, name=""):
        self.out(code, {"error": msg}, X_Error_Code=name, X_Error_Message=msg)

    def commit_of(self, repo, rev):
        cs = self.repos[repo]["commits"]
        if rev in ("main", "HEAD"):
            return cs[-1]
        for c in cs:
            if c["oid"] == rev:
                return c
        return None

    def handle_any(self):
        u = urllib.parse.urlsplit(self.path)
        p = urllib.parse.unquote(u.path)
        base = "http://127.0.0.1:%d" % self.server.server_address[1]
        data = self.body()
        self.log.append((self.command, p, len(data)))
        with LOCK:
            if p == "/api/repos/create":
                b = json.loads(data)
                r = "{}/{}".format(b.get("organization") or "tester", b["name"])
                if r in self.repos:
                    return self.out(
                        409, {"error": "You already created this model repo", "url": f"{base}/{r}", "id": r}
                    )
                self.repos[r] = {
                    "private": b.get("private", b.get("visibility") == "private"),
                    "commits": [{"oid": hashlib.sha1(r.encode()).hexdigest(), "files": {}}],
                }
                return self.out(200, {"url": f"{base}/{r}", "name": r, "id": r})
            if p == "/api/whoami-v2":
                return self.out(200, {"name": "tester", "type": "user", "auth": {}})
            if p == "/api/validate-yaml":
                return self.out(200, {"errors": [], "warnings": []})
            m = re.match(r"^/api/models/([^/]+/[^/]+)/preupload/(.+)$", p)
            if m:
                cur = self.commit_of(m[1], m[2])["files"]
                res = []
                for f in json.loads(data)["files"]:
                    big = f["size"] > 10_000 or f["path"].endswith((".safetensors", ".pt", ".bin", ".npy"))
                    old = cur.get(f["path"])
                    res.append(
                        {
                            "path": f["path"],
                            "uploadMode": "lfs" if big else "regular",
                            "shouldIgnore": False,
                            "oid": (old["sha256"] if old.get("lfs") else old["oid"]) if old else None,
                        }
                    )
                return self.out(200, {"files": res})
            m = re.match(r"^/([^/]+/[^/]+)\.git/info/lfs/objects/batch$", p)
            if m:
                objs = []
                for o in json.loads(data)["objects"]:
                    e = {"oid": o["oid"], "size": o["size"]}
                    if o["oid"] not in self.lfs:  # sha256 pre-check == dedup
                        e["actions"] = {
                            "upload": {"href": f"{base}/lfs/{o['oid']}"},
                            "verify": {"href": f"{base}/lfs-verify"},
                        }
                    objs.append(e)
                return self.out(200, {"transfer": "basic", "objects": objs})
            if p.startswith("/lfs/") and self.command == "PUT":
                self.lfs[p[5:]] = data
                return self.out(200)
            if p == "/lfs-verify":
                b = json.loads(data)
                ok = hashlib.sha256(self.lfs[b["oid"]]).hexdigest() == b["oid"]
                return self.out(200 if ok else 400, {})
            m = re.match(r"^/api/models/([^/]+/[^/]+)/commit/(.+)$", p)
            if m:
                lines = [json.loads(x) for x in data.splitlines() if x]
                head = lines[0]["value"]
                cur = self.commit_of(m[1], m[2])
                if head.get("parentCommit") and head["parentCommit"] != cur["oid"]:
                    return self.err(412, "A commit has happened since. Please refresh and try again.")
                files = dict(cur["files"])
                for l in lines[1:]:
                    v = l["value"]
                    if l["key"] == "file":
                        b = base64.b64decode(v["content"])
                        files[v["path"]] = {"oid": git_oid(b), "data": b, "size": len(b)}
                    elif l["key"] == "lfsFile":
                        if v["oid"] not in self.lfs:
                            return self.err(400, "LFS pointer pointed to a file that does not exist")
                        files[v["path"]] = {
                            "oid": git_oid(v["oid"].encode()),
                            "lfs": True,
                            "sha256": v["oid"],
                            "size": len(self.lfs[v["oid"]]),
                        }
                    elif l["key"] == "deletedFile":
                        files.pop(v["path"], None)
                oid = hashlib.sha1(
                    (cur["oid"] + repr(sorted((k, x["oid"]) for k, x in files.items()))).encode()
                ).hexdigest()
                self.repos[m[1]]["commits"].append({"oid": oid, "files": files})
                return self.out(200, {"success": True, "commitOid": oid, "commitUrl": f"{base}/{m[1]}/commit/{oid}"})
            m = re.match(r"^/api/models/([^/]+/[^/]+)(?:/revision/(.+))?$", p)
            if m and m[1] in self.repos:
                c = self.commit_of(m[1], m[2] or "main")
                if c is None:
                    return self.err(404, "bad rev", "RevisionNotFound")
                return self.out(
                    200,
                    {
                        "id": m[1],
                        "modelId": m[1],
                        "sha": c["oid"],
                        "private": self.repos[m[1]]["private"],
                        "siblings": [{"rfilename": k} for k in sorted(c["files"])],
                        "tags": [],
                        "downloads": 0,
                    },
                )
            m = re.match(r"^/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?$", p)
            if m:
                c = self.commit_of(m[1], m[2])
                res = []
                for k, x in sorted(c["files"].items()):
                    e = {"type": "file", "path": k, "size": x["size"], "oid": x["oid"]}
                    if x.get("lfs"):
                        e["lfs"] = {"oid": x["sha256"], "size": x["size"], "pointerSize": 134}
                    res.append(e)
                return self.out(200, res)
            m = re.match(r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", p)
            if m and m[1] in self.repos:
                c = self.commit_of(m[1], m[2])
                x = c and c["files"].get(m[3])
                if x is None:
                    return self.err(404, "Entry not found", "EntryNotFound")
                b = self.lfs[x["sha256"]] if x.get("lfs") else x["data"]
                h = {
                    "X_Repo_Commit": c["oid"],
                    "ETag": '"%s"' % (x["sha256"] if x.get("lfs") else x["oid"]),
                    "Accept_Ranges": "bytes",
                }
                if x.get("lfs"):
                    h.update(X_Linked_ETag='"{}"'.format(x["sha256"]), X_Linked_Size=x["size"])
                rng = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
                if rng and self.command == "GET":
                    s = int(rng[1])
                    h["Content_Range"] = f"bytes {s}-{len(b) - 1}/{len(b)}"
                    return self.out(206, b[s:], **h)
                if self.command == "HEAD":
                    return self.out(200, b"", Content_Length=len(b), **h)
                return self.out(200, b, **h)
        self.err(404, "no route " + p, "RepoNotFound")
        return None

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any


def start(port=0):
    s = ThreadingHTTPServer(("127.0.0.1", port), type("HX", (H,), {"repos": {}, "lfs": {}, "log": []}))
    s.daemon_threads = True
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s


if __name__ == "__main__":
    s = start(int(sys.argv[1]) if len(sys.argv) > 1 else 8766)
    print("hf stub on http://127.0.0.1:%d" % s.server_address[1], flush=True)
    threading.Event().wait()
