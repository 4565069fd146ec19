"""Requests that many tests make, and what every error answer must look like."""

from PIL import Image

from tests.sgn_serve.sample_pictures import encode

RED = encode(Image.new("RGB", (8, 8), (200, 10, 10)))
FORM = "multipart/form-data; boundary=edge"


def classify(client, picture=RED, **fields):
    response = client.post("/classify", files={"image": ("x.png", picture)}, data=fields)
    assert response.status_code == 200, response.text
    return response.json()


def check_error(response, status, code, message):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["code", "message", "request_id"]
    assert error["code"] == code
    assert message in error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
