"""HUMO: SOAP `urn:PaymentServer` for money, a JSON service for card information."""
