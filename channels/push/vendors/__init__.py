"""Push through Chinese gateways, which reach every phone vendor's own service: getui and JPush."""
