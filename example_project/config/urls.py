from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("", views.home, name="home"),
    path("checkout/", views.checkout, name="checkout"),
    path("stock/", views.stock, name="stock"),
    path("search/", views.search, name="search"),
    path("upstream/<str:mode>/", views.switch_upstream, name="switch-upstream"),
    path("admin/", admin.site.urls),
]
