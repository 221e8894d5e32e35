"""HUMO's SOAP 1.1: reading requests with lxml, writing replies from templates.

A request is routed by the local name of the element inside Body, whatever its prefix. Entities,
document types and the network are off: a request that declares a document type is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from lxml import etree  # type: ignore[import-untyped] # lxml ships no types

_PARSER = etree.XMLParser(
    resolve_entities=False,
    no_network=True,
    load_dtd=False,
    dtd_validation=False,
    attribute_defaults=False,
    huge_tree=False,
    remove_comments=True,
    remove_pis=True,
)

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:SOAP-ENC="http://schemas.xmlsoap.org/soap/encoding/"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
    ' xmlns:ebppif1="urn:PaymentServer"><SOAP-ENV:Body>'
)
_TAIL = "</SOAP-ENV:Body></SOAP-ENV:Envelope>\n"


class XmlError(ValueError):
    """The body is no SOAP request that this processor reads; safe to log."""


@dataclass(slots=True)
class SoapRequest:
    """One request, flattened. `repr` shows the operation alone.

    Attributes:
        operation: local name of the element in Body.
        fields: its children that have text, by local name.
        details: `details/item` pairs.
        items: bare `item` pairs, outside details.
    """

    operation: str
    fields: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<SoapRequest {self.operation}>"


def parse(body: bytes) -> SoapRequest:
    """Read a SOAP request.

    Raises:
        XmlError: it is not well-formed, declares a document type, or has no operation.
    """
    try:
        root = etree.fromstring(body, _PARSER)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise XmlError("not well-formed") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise XmlError("a document type is declared")
    if _local(root.tag) != "Envelope":
        raise XmlError("no Envelope")
    for part in root:
        if _local(part.tag) == "Body" and len(part):
            return _operation(part[0])
    raise XmlError("no operation in Body")


def _operation(element: etree._Element) -> SoapRequest:
    request = SoapRequest(_local(element.tag))
    for child in element:
        name = _local(child.tag)
        if name == "details":
            for item in child:
                _item(item, request.details)
        elif name == "item":
            _item(child, request.items)
        elif len(child):
            # `switchingID` holds its text one level down, in `value`.
            request.fields[name] = (child[0].text or "").strip()
        else:
            request.fields[name] = (child.text or "").strip()
    return request


def _item(item: etree._Element, into: dict[str, str]) -> None:
    name = value = ""
    for part in item:
        local = _local(part.tag)
        if local == "name":
            name = (part.text or "").strip()
        elif local == "value":
            value = (part.text or "").strip()
    if name:
        into[name] = value


def _local(tag: object) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def payment_reply(
    element: str, payment_id: int, payment_ref: str, details: Mapping[str, object], action: int
) -> bytes:
    """Write `PaymentResponse`, `RequestResponse` or `GetPaymentResponse`.

    Args:
        details: values are of our own making; names and values need no escaping.
    """
    items = "".join(
        [
            f"<item><name>{name}</name><value>{value}</value></item>"
            for name, value in details.items()
        ]
    )
    ref = escape(payment_ref)
    session = f"<sessionID>{ref}</sessionID>" if element == "RequestResponse" else ""
    status = "<status>none</status>" if element == "GetPaymentResponse" else ""
    return (
        f"{_HEAD}<ebppif1:{element}>{session}<paymentID>{payment_id}</paymentID>"
        f"<paymentRef>{ref}</paymentRef>{status}<details>{items}</details>"
        f"<action>{action}</action></ebppif1:{element}>{_TAIL}"
    ).encode()


def empty_reply(element: str) -> bytes:
    """Write a reply without content, such as `CancelRequestResponse`."""
    return f"{_HEAD}<ebppif1:{element}></ebppif1:{element}>{_TAIL}".encode()


def fault_reply(error: int, description: str) -> bytes:
    """Write a SOAP Fault with `PaymentServerException`."""
    text = escape(description)
    return (
        f"{_HEAD}<SOAP-ENV:Fault><faultcode>SOAP-ENV:Client</faultcode>"
        f"<faultstring>{text}</faultstring><detail><ebppif1:PaymentServerException>"
        f"<provider>EBPP</provider><error>{error}</error><description>{text}</description>"
        f"<screen>EBPP-{error}</screen></ebppif1:PaymentServerException></detail>"
        f"</SOAP-ENV:Fault>{_TAIL}"
    ).encode()
