//! How a fault is mended, in the words of each proxy.

/// By proxy, what is to be said.
type Mend = &'static [(&'static str, &'static str)];

/// The findings that can be mended.
#[cfg(test)]
pub(super) const NAMES: [&str; 17] = [
    "certificate",
    "certificate_ends",
    "unreachable",
    "plain",
    "http2",
    "no_answer",
    "no_route",
    "no_server",
    "redirect",
    "refused",
    "sticky",
    "cookie_needed",
    "no_websocket",
    "no_upgrade",
    "held_poll",
    "idle_socket",
    "cors",
];

/// How the finding of this name is mended; nothing where it is not the proxy's to mend.
pub(super) fn of(name: &str) -> Mend {
    match name {
        "certificate" => &[
            ("HAProxy", "the file of `bind … ssl crt` holds the whole chain, leaf first, for this name"),
            ("nginx", "`ssl_certificate` is the whole chain (fullchain.pem), and `server_name` this name"),
            ("Caddy", "names in the Caddyfile get certificates by themselves"),
            ("Sockgate", "`tls.certificates`: the chain, leaf first; or `acme: { domains, email, storage }`"),
        ],
        "certificate_ends" => &[
            ("HAProxy, nginx", "reload after each renewal: certbot's `--deploy-hook`"),
            ("Sockgate", "files are taken up when they change, and `acme` renews by itself"),
        ],
        "unreachable" => &[
            ("any", "look whether it runs, and at the firewall"),
            ("Sockgate", "`sockgate run` says where it listens"),
        ],
        "plain" => &[
            ("HAProxy", "`bind :443 ssl crt FILE alpn h2,http/1.1`"),
            ("nginx", "`listen 443 ssl; http2 on;`"),
            ("Sockgate", "`tls: { certificates: [...] }` on the listener"),
        ],
        "http2" => &[
            ("HAProxy", "`bind … alpn h2,http/1.1`"),
            ("nginx", "`http2 on;` in the server (`listen 443 ssl http2;` before 1.25)"),
            ("Sockgate", "on by itself; `http2: false` turns it off"),
        ],
        "no_answer" | "no_server" => &[
            ("HAProxy", "`show servers state`: are they up, and does `option httpchk` ask what they answer?"),
            ("nginx", "the error log names who refused; `proxy_connect_timeout`"),
            ("Sockgate", "`/status` says of each server why it is down"),
        ],
        "no_route" => &[
            ("HAProxy", "`use_backend sockets if { path_beg /socket.io/ }` before `default_backend`"),
            ("nginx", "`location /socket.io/ { proxy_pass http://sockets; }`, without a path behind the name"),
            ("ingress-nginx", "a path `/socket.io/` with `pathType: Prefix`, and no rewrite-target for it"),
            ("Traefik", "a router with PathPrefix(`/socket.io/`), and no StripPrefix"),
            ("Caddy", "`handle /socket.io/* { reverse_proxy … }`"),
            ("Sockgate", "`routes: [{ match: { path: /socket.io/ }, upstream: … }]` before others"),
        ],
        "redirect" => &[
            ("any", "give clients the address that it is sent to, or leave /socket.io/ out of the redirect"),
            ("Sockgate", "a route for /socket.io/ before the one that redirects"),
        ],
        "refused" => &[
            ("any", "what the server says there is its reason: `allowRequest`, `cors`, a token, a body limit"),
            ("Sockgate", "the access log has it as `closed_by`"),
        ],
        "sticky" => &[
            ("HAProxy", "`balance source`, or `cookie io prefix indirect nocache` with a `cookie` for each server"),
            ("nginx", "`ip_hash;` or `hash $remote_addr consistent;` in the upstream"),
            ("ingress-nginx", "`nginx.ingress.kubernetes.io/affinity: cookie`, or upstream-hash-by"),
            ("Traefik", "`loadBalancer.sticky.cookie` of the service"),
            ("Caddy", "`lb_policy cookie` or `lb_policy ip_hash`"),
            ("Sockgate", "`kind: socket.io`: sessions are followed, without cookies"),
        ],
        "cookie_needed" => &[
            ("HAProxy", "`balance source` or a stick table holds for clients that keep no cookies, too"),
            ("nginx", "`hash $remote_addr consistent;`"),
            ("Sockgate", "`kind: socket.io`: sessions are followed, without cookies"),
        ],
        "no_websocket" | "no_upgrade" => &[
            ("HAProxy", "nothing is needed; `timeout tunnel 1h`, and no `option httpclose`"),
            (
                "nginx",
                "`proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";`",
            ),
            ("ingress-nginx", "nothing is needed; look at snippets that set Connection"),
            ("Traefik", "nothing is needed; look at middlewares that buffer or compress"),
            ("Caddy", "nothing is needed"),
            ("Sockgate", "nothing is needed"),
        ],
        "held_poll" => &[
            ("HAProxy", "`timeout server` longer than the heartbeat: 60s"),
            ("nginx", "`proxy_read_timeout 60s;` or longer"),
            ("ingress-nginx", "`nginx.ingress.kubernetes.io/proxy-read-timeout: \"60\"`"),
            ("Sockgate", "leave `first_byte` out: each handshake tells how long a poll may be held"),
        ],
        "idle_socket" => &[
            ("HAProxy", "`timeout tunnel 1h`, and no shorter `timeout client-fin`"),
            ("nginx", "`proxy_read_timeout 3600s; proxy_send_timeout 3600s;`"),
            ("ingress-nginx", "`proxy-read-timeout` and `proxy-send-timeout: \"3600\"`"),
            ("Traefik", "`transport.respondingTimeouts.readTimeout: 0s` of the entry point"),
            ("cloud balancers", "an idle timeout above the heartbeat (AWS ALB has 60 s)"),
            ("Sockgate", "leave `tunnel_idle` out: each handshake tells how long a socket may be silent"),
        ],
        "cors" => &[
            ("Socket.IO", "`cors: { origin: [\"https://app.example.com\"], credentials: true }`, never `origin: true`"),
            ("Sockgate", "`access: { origins: [same], cors: { origins: https://app.example.com } }`"),
        ],
        _ => &[],
    }
}
