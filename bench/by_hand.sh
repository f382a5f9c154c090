#!/bin/sh
# Blue-green as people write it: from IMAGE a container NEW beside OLD, a look at it, then nginx in the container PROXY.
set -e
docker run -d --name "$NEW" --network "$NETWORK" --label bluegreen.test=bench "$IMAGE" >/dev/null
address=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$NEW"):9000
for _ in $(seq 60); do
    curl -sf "http://$address/version" >/dev/null && break
    sleep 0.5
done
docker exec -i "$PROXY" sh -c 'cat >/etc/nginx/conf.d/app.conf' <<CONF
upstream app { server $address; keepalive 64; }
server {
    listen 8080;
    location / {
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host \$http_host;
    }
}
CONF
docker exec "$PROXY" nginx -t -q
docker exec "$PROXY" nginx -s reload 2>/dev/null
docker stop "$OLD" >/dev/null
docker rm "$OLD" >/dev/null
