"""modelarts-gateway: plain HTTP in, authorised requests to Huawei Cloud ModelArts out."""

__version__ = "0.1.0"
