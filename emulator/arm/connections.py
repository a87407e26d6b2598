"""Connections: where something outside lies and how to sign in there. Kept, never used by the server itself.

Secrets stand in the database (mode 0600) beside the properties; `listSecrets` alone gives them back.
Source: the WorkspaceConnection schemas of the Azure Machine Learning REST API, and what azure-ai-ml sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Response, jsonify, request

from amlocal.compat import names
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of
from amlocal.emulator.http.errors import AzureError, bad_request, not_there_yet
from amlocal.emulator.store.workspace import PROVIDER

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,32}\Z", re.ASCII)
_SECRETS = "credentials"
_LONGEST = 20_000
_MOST = 100

# authType -> (fields that must be given, fields that may be). azure-ai-ml calls an account's key `sas`.
_AUTH: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "PAT": (("pat",), ()),
    "ManagedIdentity": ((), ("clientId", "resourceId")),
    "UsernamePassword": (("username",), ("password", "securityToken")),
    "None": ((), ()),
    "SAS": (("sas",), ()),
    "AccountKey": ((), ("key", "sas")),
    "ServicePrincipal": (("clientId", "clientSecret", "tenantId"), ()),
    "AccessKey": (("accessKeyId", "secretAccessKey"), ()),
    "ApiKey": (("key",), ()),
    "CustomKeys": (("keys",), ()),
    "OAuth2": (
        ("clientId",),
        ("authUrl", "clientSecret", "developerToken", "password", "refreshToken", "tenantId", "username"),
    ),
    "AAD": ((), ()),
}
_LATER = (
    "DelegatedSAS", "ProjectManagedIdentity", "AccountManagedIdentity", "UserEntraToken",
    "AgentUserImpersonation", "AgenticIdentityToken", "AgenticUser",
)  # fmt: skip
_CATEGORIES = (
    "PythonFeed", "ContainerRegistry", "Git", "S3", "Snowflake", "AzureKeyVault", "AzureSqlDb",
    "AzureSynapseAnalytics", "AzureMySqlDb", "AzurePostgresDb", "ADLSGen2", "AzureContainerAppEnvironment",
    "Redis", "ApiKey", "AzureOpenAI", "AIServices", "CognitiveSearch", "CognitiveService", "CustomKeys",
    "AzureBlob", "AzureStorageAccount", "AzureOneLake", "CosmosDb", "CosmosDbMongoDbApi",
    "AzureDataExplorer", "AzureMariaDb", "AzureDatabricksDeltaLake", "AzureSqlMi", "AzureTableStorage",
    "AmazonRdsForOracle", "AmazonRdsForSqlServer", "AmazonRedshift", "Db2", "Drill", "GoogleBigQuery",
    "Greenplum", "Hbase", "Hive", "Impala", "Informix", "MariaDb", "MicrosoftAccess", "MySql", "Netezza",
    "Oracle", "Phoenix", "PostgreSql", "Presto", "SapOpenHub", "SapBw", "SapHana", "SapTable", "Spark",
    "SqlServer", "Sybase", "Teradata", "Vertica", "Pinecone", "Databricks", "Cassandra", "Couchbase",
    "MongoDbV2", "MongoDbAtlas", "AmazonS3Compatible", "FileServer", "FtpServer", "GoogleCloudStorage",
    "Hdfs", "OracleCloudStorage", "Sftp", "GenericHttp", "ODataRest", "Odbc", "GenericRest", "RemoteTool",
    "AmazonMws", "Concur", "Dynamics", "DynamicsAx", "DynamicsCrm", "GoogleAdWords", "Hubspot", "Jira",
    "Magento", "Marketo", "Office365", "Eloqua", "Responsys", "OracleServiceCloud", "PayPal", "QuickBooks",
    "Salesforce", "SalesforceServiceCloud", "SalesforceMarketingCloud", "SapCloudForCustomer", "SapEcc",
    "ServiceNow", "SharePointOnlineList", "Shopify", "Square", "WebTable", "Xero", "Zoho",
    "GenericContainerRegistry", "Elasticsearch", "AppInsights", "AppConfig", "OpenAI", "Serp",
    "BingLLMSearch", "Serverless", "ManagedOnlineEndpoint", "ApiManagement",
)  # fmt: skip
# The ways of signing in that azure-ai-ml allows for these categories; the others take any.
_ALLOWED = {
    "AzureBlob": ("AccessKey", "AccountKey", "SAS", "AAD", "None"),
    "ADLSGen2": ("ServicePrincipal", "AAD", "None", "ManagedIdentity"),
    "Git": ("PAT", "None", "UsernamePassword"),
    "PythonFeed": ("UsernamePassword", "PAT", "None"),
    "ContainerRegistry": ("ManagedIdentity", "UsernamePassword"),
}
# Data connections: a list shows them on request only (includeAll, or their category). azure-ai-ml 1.35.2
# sends includeAll=false whatever it is asked for.
_DATA = ("AzureBlob", "ADLSGen2", "AzureOneLake")
_WITHOUT_TARGET = ("Serp", "OpenAI")


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    category = _spelled(properties, "category", _CATEGORIES)
    auth = _spelled(properties, "authType", (*_AUTH, *_LATER))
    if auth in _LATER:
        raise not_there_yet(f"authType {auth} of a connection")
    allowed = _ALLOWED.get(category, tuple(_AUTH))
    if auth not in allowed:
        raise _bad("authType", f"for a connection to {category} one of {', '.join(allowed)}, not {auth}")
    target = properties.get("target")
    if target is None and category not in _WITHOUT_TARGET:
        raise _bad("target", "a text: the address or ARM id of what is connected")
    if target is not None and (not isinstance(target, str) or not target or len(target) > 2048):
        raise _bad("target", "a text of 1 to 2048 characters")
    kept: dict[str, Any] = {"category": category, "authType": auth, "target": target}
    kept["metadata"] = _texts(properties.get("metadata"), "metadata")
    for field in ("isSharedToAll", "useWorkspaceManagedIdentity"):
        value = properties.get(field)
        if value is not None:
            if not isinstance(value, bool):
                raise _bad(field, "true or false")
            kept[field] = value
    secrets = _credentials(auth, properties.get(_SECRETS), present)
    return {"properties": kept, _SECRETS: secrets}


def _credentials(auth: str, given: Any, present: Document | None) -> dict[str, Any]:
    """What to keep. Credentials without any value, as a client gets them, leave those that are stored."""
    if given is not None and not isinstance(given, dict):
        raise _bad(_SECRETS, "an object")
    needed, optional = _AUTH[auth]
    values = {key: value for key, value in (given or {}).items() if value not in (None, "")}
    if not values and present is not None and present.properties["authType"] == auth:
        stored: dict[str, Any] = present.body[_SECRETS]
        return stored
    unknown = sorted(values.keys() - {*needed, *optional})
    if unknown:
        fields = ", ".join((*needed, *optional)) or "no fields"
        raise _bad(_SECRETS, f"those of {auth}, which have {fields}: {unknown[0][:60]!r} is not among them")
    absent = [field for field in needed if field not in values]
    if absent or (auth == "AccountKey" and len(values) != 1):
        raise _bad(f"{_SECRETS}.{absent[0] if absent else 'key'}", f"given: authType {auth} needs it")
    if auth == "CustomKeys":
        return {"keys": _texts(values["keys"], f"{_SECRETS}.keys")}
    return _texts(values, _SECRETS)


def _texts(given: Any, field: str) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > _MOST:
        raise _bad(field, f"an object of at most {_MOST} texts")
    for key, value in given.items():
        if value is not None and (not isinstance(value, str) or len(value) > _LONGEST):
            raise _bad(f"{field}.{key[:60]}", f"a text of at most {_LONGEST} characters")
    return {key: value for key, value in given.items() if value is not None}


def _spelled(properties: Mapping[str, Any], field: str, known: Sequence[str]) -> str:
    """The value in Azure's own spelling; clients write AzureOpenAi and azure_open_ai as well."""
    given = properties.get(field)
    if not isinstance(given, str):
        raise _bad(field, f"a text such as {known[0]}")
    spelled = {name.lower(): name for name in known}.get(given.replace("_", "").lower())
    if spelled is None:
        near = names.nearest(given, known)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise bad_request(
            "InvalidRequestContent",
            f"`properties.{field}` is {given[:60]!r}, which no connection has.{hint}",
            target=field,
        )
    return spelled


def _bad(field: str, wanted: str) -> AzureError:
    # Never the value: it may be a secret.
    return bad_request("InvalidRequestContent", f"`properties.{field}` must be {wanted}.", target=field)


def _after_put(call: Call, document: Document, created: bool) -> Response:
    # 200 for a new one too: azure-ai-ml takes nothing else.
    return jsonify(_shown(call, document, dict(document.properties)))


def _list_secrets(call: Call, document: Document) -> dict[str, Any]:
    secrets = document.body[_SECRETS]
    return _shown(call, document, {**document.properties, **({_SECRETS: secrets} if secrets else {})})


def _shown(call: Call, document: Document, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": call.arm_id,
        "name": document.name,
        "type": f"{PROVIDER}/workspaces/connections",
        "properties": properties,
    }


def _listed(call: Call) -> Callable[[Document], bool]:
    everything = request.args.get("includeAll", "").lower() == "true"
    asked = request.args.get("category", "").replace("_", "").lower()

    def shown(document: Document) -> bool:
        category = str(document.properties["category"])
        return everything or category not in _DATA or category.lower() == asked

    return shown


CONNECTIONS = Resource(
    path="connections",
    title="Connection",
    name_rule=NAME,
    top_level=(_SECRETS,),
    hidden=(_SECRETS,),
    prepare=_prepare,
    after_put=_after_put,
    listed=_listed,
    actions={"listSecrets": _list_secrets},
    filters={
        "category": lambda document, value: (
            document.properties["category"].lower() == value.replace("_", "").lower()
        ),
        "target": lambda document, value: document.properties["target"] == value,
    },
)
