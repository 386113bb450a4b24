// What a page of another origin tries. Returns what it could read, and how many attempts it made.
// `args[0]` is the origin of the gate.
const gate = args[0];
const rule = JSON.stringify({id: "foreign", type: "filter", params: {value: "x"}});
const output = JSON.stringify({type: "tcp", address: "192.0.2.1:5140"});
const token = JSON.stringify({name: "foreign", role: "admin"});
const targets = [
    ["POST", "/rules", rule],
    ["PUT", "/rules", "[]"],
    ["PUT", "/rules/drop_debug", rule],
    ["DELETE", "/rules/drop_debug", ""],
    ["POST", "/outputs", output],
    ["DELETE", "/outputs", ""],
    ["DELETE", "/outputs/console-1", ""],
    ["POST", "/outputs/console-1/redrive", ""],
    ["POST", "/config/batch_size?size=7", ""],
    ["POST", "/config/batch_size", '{"batch_size": 7}'],
    ["PUT", "/draft", '{"name": "x", "processors": [], "outputs": [], "batch_size": 7}'],
    ["POST", "/publish?allow_removal=true&republish=true", ""],
    ["POST", "/revisions/1/rollback?allow_removal=true", ""],
    ["PUT", "/modules/foreign", "\0asm"],
    ["DELETE", "/modules/foreign", ""],
    ["POST", "/tokens", token],
];
const pages = ["/", "/rules", "/draft", "/outputs", "/status", "/openapi.json", "/docs", "/tokens"];
const read = [];
const failed = [];
let attempts = 0;

// Waits for a promise, for a bounded time.
function within(promise, what) {
    return new Promise((resolve) => {
        const timer = setTimeout(() => { failed.push(what); resolve(); }, 8000);
        promise.then((value) => { clearTimeout(timer); resolve(value); });
    });
}

async function fetched(path, options) {
    attempts += 1;
    try {
        const answer = await fetch(gate + path, options);
        const text = await answer.text();
        if (answer.type !== "opaque" || answer.status !== 0 || text !== "") {
            read.push(["fetch", path, options.mode, answer.type, answer.status, text]);
        }
    } catch { /* It could not be sent, or not be read. */ }
}

async function requested(method, path, kind, body) {
    attempts += 1;
    const request = new XMLHttpRequest();
    await within(new Promise((resolve) => {
        request.onloadend = resolve;
        request.open(method, gate + path);
        if (kind) { request.setRequestHeader("Content-Type", kind); }
        request.send(body);
    }), `XHR ${path}`);
    if (request.status !== 0 || request.responseText !== "") {
        read.push(["XHR", method, path, request.status, request.responseText]);
    }
}

async function posted(path, enctype, body) {
    attempts += 1;
    const frame = document.createElement("iframe");
    frame.name = `form-${attempts}`;
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", action: gate + path, enctype, target: frame.name});
    const field = document.createElement("input");
    // With `text/plain`, name and value make JSON together.
    [field.name, field.value] = [body.slice(0, -1) + ', "x": "', '"}'];
    form.append(field);
    document.body.append(frame, form);
    const loaded = new Promise((resolve) => {
        frame.onload = resolve;
    });
    form.submit();
    await within(loaded, `form ${path}`);
    try {
        const text = frame.contentDocument?.body?.innerText;
        if (text) { read.push(["form", path, text]); }
    } catch { /* Not readable. */ }
    frame.remove();
    form.remove();
}

async function loaded(name, attribute, path) {
    attempts += 1;
    const element = document.createElement(name);
    if (name === "link") { element.rel = "stylesheet"; }
    element[attribute] = gate + path;
    const seen = new Promise((resolve) => {
        element.onload = () => resolve("loaded");
        element.onerror = () => resolve("failed");
    });
    document.head.append(element);
    if (await within(seen, `${name} ${path}`) === "loaded") { read.push([name, path]); }
    element.remove();
}

for (const [method, path, body] of targets) {
    for (const mode of ["no-cors", "cors"]) {
        for (const kind of ["text/plain", "application/json"]) {
            for (const credentials of ["omit", "include"]) {
                const headers = body === "" ? {} : {"Content-Type": kind};
                const options = {method, mode, credentials, headers};
                if (body !== "") { options.body = body; }
                await fetched(path, options);
            }
        }
    }
    await requested(method, path, "text/plain", body);
    await requested(method, path, "application/json", body);
    if (method === "POST") {
        attempts += 3;
        navigator.sendBeacon(gate + path, body);
        navigator.sendBeacon(gate + path, new URLSearchParams({body}));
        navigator.sendBeacon(gate + path, new Blob([body], {type: "text/plain"}));
        for (const enctype of [
            "application/x-www-form-urlencoded", "multipart/form-data", "text/plain",
        ]) {
            await posted(path, enctype, body || "{}");
        }
    }
}
for (const path of pages) {
    for (const mode of ["no-cors", "cors"]) {
        for (const credentials of ["omit", "include"]) {
            await fetched(path, {mode, credentials});
        }
    }
    await requested("GET", path);
    await loaded("img", "src", path);
    await loaded("script", "src", path);
    await loaded("link", "href", path);
    attempts += 1;
    const socket = new WebSocket(gate.replace("http", "ws") + path);
    await within(new Promise((resolve) => {
        socket.onopen = () => { read.push(["WebSocket", path]); resolve(); };
        socket.onerror = resolve;
    }), `WebSocket ${path}`);
}
return {attempts, read, failed};
