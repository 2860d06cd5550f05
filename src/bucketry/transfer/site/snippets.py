"""What web servers are told to serve a site's folder: ``bucketry-nginx.conf`` and ``Caddyfile``. Pure text.

They name no image and no path of this machine, so they stay right when something is published, and are the same for
every site. Of a manifest they look for its twin (see `bucketry.transfer.site.paths`), whose name says its digest and
its media type. A tag is followed to the folder of a digest, and only then a file is opened: so digest, type and bytes
are of one manifest, whatever the tag becomes meanwhile.
"""

from __future__ import annotations

from typing import Final

from bucketry.transfer.site import paths

_DIGEST: Final = "sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"
_OURS: Final = f"{paths.STATE}|{paths.NGINX}|{paths.CADDY}".replace(".", r"\.")
"""Files beside ``v2/`` that are no business of whoever pulls."""
_LISTS: Final = "|".join(each.removeprefix(paths.API) for each in (paths.CATALOG, paths.DISCOVER))
_LOOKS: Final = 4
_MISSING: Final = '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not published here"}]}'


_NGINX_TWINS: Final = " ".join(
    f"/v2/$site_name/manifests/~/$site_digest/$site_digest.{kind}" for kind in paths.KINDS.values()
)


def nginx() -> str:
    """For the context ``server``, whose ``root`` is the site's folder."""
    types = "\n".join(f"    {media_type} {kind};" for media_type, kind in paths.KINDS.items())
    return f"""\
# How nginx gives this folder to whoever pulls images. `bucketry publish` makes it anew with each run: leave it as it
# is, and include it in a server whose root is the folder:
#
#   server {{
#     listen 443 ssl;
#     server_name images.example.com;
#     ssl_certificate     /etc/ssl/images.example.com.pem;
#     ssl_certificate_key /etc/ssl/images.example.com.key;
#     root    /srv/images;
#     include /srv/images/{paths.NGINX};
#   }}

# Below v2/ nothing is compressed: some clients need Content-Length. What a tag leads to, see below.
location ~ "^/v2/(?<site_name>.+)/manifests/~/tagged/(?<site_digest>{_DIGEST})$" {{
  internal;
  gzip off;
  types {{
{types}
  }}
  add_header Docker-Content-Digest $site_digest;
  add_header Cache-Control "{paths.SHORTLY}";
  # nginx tells files apart by seconds and sizes, which is too coarse for a tag that moves.
  etag off;
  if_modified_since off;
  try_files {_NGINX_TWINS} =404;
  error_page 404 = @site_missing;
}}

location ~ "/[.~]|^/(?:{_OURS})$" {{
  return 404;
}}

location = /v2/ {{
  default_type {paths.JSON};
  add_header Docker-Distribution-API-Version registry/2.0;
  return 200 "{{}}";
}}

# What a manifest is called says nothing of its media type; the name of its twin, below ~, does.
location ~ "^/v2/(?<site_name>.+)/manifests/(?<site_digest>{_DIGEST})$" {{
  gzip off;
  types {{
{types}
  }}
  add_header Docker-Content-Digest $site_digest;
  add_header Cache-Control "{paths.FOREVER}";
  try_files {_NGINX_TWINS} =404;
  error_page 404 = @site_missing;
}}

# A tag is a link, below ~, to the folder of a digest.
set $site_root $document_root;
location ~ "^/v2/(?<site_name>.+)/manifests/(?<site_tag>[^/~:]+)$" {{
  root $site_root/v2/$site_name/manifests/~/$site_tag;
  error_page 404 = @site_missing;
  if (!-d $site_root/v2/$site_name/manifests/~/$site_tag) {{
    return 404;
  }}
  if ($realpath_root ~ "/~/(?<site_pointed>{_DIGEST})$") {{
    rewrite ^ /v2/$site_name/manifests/~/tagged/$site_pointed last;
  }}
  return 404;
}}

location @site_missing {{
  default_type {paths.JSON};
  return 404 '{_MISSING}';
}}

location ~ "^/v2/.+/blobs/(?<site_digest>{_DIGEST})$" {{
  gzip off;
  types {{ }}
  default_type {paths.OCTETS};
  add_header Docker-Content-Digest $site_digest;
  add_header Cache-Control "{paths.FOREVER}";
  add_header X-Content-Type-Options nosniff;
}}

location ~ "^/v2/.+/_bucketry/checkpoints/[^/]+$" {{
  gzip off;
  types {{ }}
  default_type {paths.OCTETS};
  add_header Cache-Control "{paths.FOREVER}";
}}

location ~ "^/v2/.+/referrers/[^/]+$" {{
  gzip off;
  types {{ }}
  default_type application/vnd.oci.image.index.v1+json;
  add_header Cache-Control "{paths.SHORTLY}";
}}

location ~ "^/v2/(?:.+/tags/list|{_LISTS})$" {{
  gzip off;
  types {{ }}
  default_type {paths.JSON};
  add_header Cache-Control "{paths.SHORTLY}";
}}

location = /{paths.PAGE} {{
  add_header Cache-Control "{paths.SHORTLY}";
}}
"""


def caddyfile() -> str:
    """Works as it is, from the site's folder, and imported by another; both by environment variables."""
    # The same pattern again and again: a tag may move between the reading of its folder and the look at the file in it.
    twins = " ".join(["/v2/{re.site.1}/manifests/~/{re.site.2}/sha*"] * _LOOKS)
    types = "\n".join(
        f"\t\t\t@{kind} path *.{kind}\n\t\t\theader @{kind} Content-Type {media_type}"
        for media_type, kind in paths.KINDS.items()
    )
    hidden = " ".join(("/.*", "*/.*", "*/~/*", *(f"/{name}" for name in (paths.STATE, paths.NGINX, paths.CADDY))))
    return f"""\
# How Caddy gives this folder to whoever pulls images. `bucketry publish` makes it anew with each run: leave it as it
# is. In this folder:
#
#   SITE=images.example.com caddy run
#
# or in another Caddyfile, with SITE_ROOT set to this folder: import /srv/images/{paths.CADDY}

{{$SITE:localhost}} {{
	root * {{$SITE_ROOT:.}}
	header /v2/* Docker-Distribution-API-Version registry/2.0

	@hidden path {hidden}
	handle @hidden {{
		respond 404
	}}

	handle /v2/ {{
		header Content-Type {paths.JSON}
		respond "{{}}"
	}}

	# What a manifest is called says nothing of its media type; the name of its twin does, in the folder of its digest
	# below ~, which a tag is a link to.
	@manifest path_regexp site ^/v2/(.+)/manifests/([^/~]+)$
	handle @manifest {{
		# In this order: the file that is meant, its digest and type, then the very file of that digest.
		route {{
			try_files {twins}
			@twin path_regexp twin /({_DIGEST})\\.([a-z-]+)$
			rewrite @twin /v2/{{re.site.1}}/manifests/~/{{re.twin.1}}/{{re.twin.1}}.{{re.twin.2}}
{types}
			@fixed vars_regexp {{http.request.orig_uri.path}} /(?:{_DIGEST})$
			header Cache-Control "{paths.SHORTLY}"
			header @fixed Cache-Control "{paths.FOREVER}"
			header @twin Docker-Content-Digest {{re.twin.1}}
			file_server
		}}
	}}

	@blob path_regexp blob ^/v2/.+/blobs/({_DIGEST})$
	handle @blob {{
		header Content-Type {paths.OCTETS}
		header X-Content-Type-Options nosniff
		@there file
		header @there Docker-Content-Digest {{re.blob.1}}
		header @there Cache-Control "{paths.FOREVER}"
		file_server
	}}

	@checkpoints path_regexp ^/v2/.+/_bucketry/checkpoints/[^/]+$
	handle @checkpoints {{
		header Content-Type {paths.OCTETS}
		@there file
		header @there Cache-Control "{paths.FOREVER}"
		file_server
	}}

	@referrers path_regexp ^/v2/.+/referrers/[^/]+$
	handle @referrers {{
		header Content-Type application/vnd.oci.image.index.v1+json
		header Cache-Control "{paths.SHORTLY}"
		file_server
	}}

	@lists path_regexp ^/v2/(?:.+/tags/list|{_LISTS})$
	handle @lists {{
		header Content-Type {paths.JSON}
		header Cache-Control "{paths.SHORTLY}"
		file_server
	}}

	handle {{
		header Cache-Control "{paths.SHORTLY}"
		file_server
	}}

	handle_errors 404 {{
		header /v2/* Content-Type {paths.JSON}
		header -Cache-Control
		header -Docker-Content-Digest
		respond /v2/* `{_MISSING}` 404
	}}
}}
"""
